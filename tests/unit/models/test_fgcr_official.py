"""Official FGCR weights are loaded from what people have, and refused in words when they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naive_fgcr import random_case, random_state_dict
from test_fgcr_published import SMALL

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.fgcr import load_official

CASE = random_case(0, **SMALL)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in random_state_dict(0, **SMALL).items()}


def refusal(source: object, **sizes: object) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        load_official(source, **sizes)  # type: ignore[arg-type]
    return caught.value


def test_files_and_checkpoints_load_like_a_state_dict(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    expected = load_official(state, **SMALL).run(CASE)["img_cls"]
    torch.save({"state_dict": {f"module.{n}": v for n, v in state.items()}, "epoch": 3}, tmp_path / "a.pth")
    for source in (tmp_path / "a.pth", str(tmp_path / "a.pth"), {n: v.numpy() for n, v in state.items()}):
        assert np.array_equal(load_official(source, SMALL).run(CASE)["img_cls"], expected)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"a": print}, tmp_path / "evil.pth")
    assert refusal(tmp_path / "evil.pth", **SMALL).code == "checkpoint-unreadable"


def test_sizes_that_the_weights_determine_need_not_be_passed(state: dict[str, torch.Tensor]) -> None:
    model = load_official(state, heads=2, text_heads=3, num_kernel=6)
    assert model.network.config == load_official(state, **SMALL).network.config
    assert np.array_equal(model.run(CASE)["text_cls"], load_official(state, **SMALL).run(CASE)["text_cls"])


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"dim": 13}, "checkpoint-size-mismatch", "dim is 12, not 13"),
        ({"depth": 6}, "checkpoint-size-mismatch", "depth is 3, not 6"),
        ({"heads": 4}, "checkpoint-size-mismatch", "heads times dim_head is 10"),
        ({"text_heads": 5}, "model-config", "text_heads"),
        ({"heads": None, "dim_head": None}, "checkpoint-size-missing", "heads"),
        ({"text_heads": None}, "checkpoint-size-missing", "text_heads"),
        ({"mlp_dim": 9.5}, "checkpoint-size-invalid", "mlp_dim"),
        ({"mlp_dim": "9"}, "checkpoint-size-invalid", "mlp_dim"),
        ({"mlp_dim": True}, "checkpoint-size-invalid", "mlp_dim"),
        ({"width": 9}, "checkpoint-size-unknown", "width"),
    ],
)
def test_wrong_sizes_are_named(
    changes: dict[str, object], code: str, named: str, state: dict[str, torch.Tensor]
) -> None:
    error = refusal(state, **{**SMALL, **changes})
    assert error.code == code
    assert named in error.message


def test_weights_of_another_network_are_named(state: dict[str, torch.Tensor]) -> None:
    unknown = refusal(state | {"surprise.weight": torch.zeros(1)}, **SMALL)
    assert (unknown.code, "surprise.weight" in unknown.message) == ("checkpoint-keys-unknown", True)
    lacking = refusal({n: v for n, v in state.items() if n != "text_encoder.norm.bias"}, **SMALL)
    assert (lacking.code, "text.norm.bias" in lacking.message) == ("checkpoint-keys-missing", True)
    bent = refusal(state | {"LayerNorm.bias": torch.zeros(3)}, **SMALL)
    assert (bent.code, "text.entry_norm.bias" in bent.message) == ("checkpoint-size-mismatch", True)
    diverged = refusal(state | {"LayerNorm.bias": torch.full((12,), torch.nan)}, **SMALL)
    assert diverged.code == "checkpoint-not-finite"


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("feats", None, "tensor-missing"),
        ("mlm_uniform", None, "tensor-missing"),
        ("feats", np.zeros((3, 17, 12), np.float32), "tensor-shape"),
        ("soft_mask", np.zeros((3, 7, 17), np.float32), "tensor-shape"),
        ("anchor_mask", np.zeros((3, 6), np.int32), "tensor-shape"),
        ("feats", np.full((3, 17, 12), "1"), "tensor-shape"),
        ("text", np.full((3, 11, 1), None), "tensor-shape"),
        ("text", np.full((3, 11, 1), 23), "tokens-unknown"),
        ("prompt", np.full((3, 11, 1), 5), "tokens-unknown"),
        ("prompt_vocab_ids", np.zeros(4, np.int64), "tensor-shape"),
        ("text", np.zeros((3, 41, 1), np.int64), "tensor-shape"),
    ],
)
def test_a_case_that_does_not_fit_is_named(
    name: str, value: Any, code: str, state: dict[str, torch.Tensor]
) -> None:
    case = {key: array for key, array in CASE.items() if key != name}
    with pytest.raises(InvalidInputError) as caught:
        load_official(state, **SMALL).losses(case if value is None else case | {name: value})
    assert caught.value.code == code
    assert name in caught.value.message
