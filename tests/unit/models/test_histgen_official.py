"""Loading official weights: whole checkpoints, aliases, unread names, and refusals that name the culprit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naive_histgen import random_state_dict

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen import load_official

SIZES = {
    "vocab_words": 21,
    "max_seq_length": 6,
    "d_model": 16,
    "d_ff": 12,
    "d_vf": 20,
    "num_heads": 4,
    "topk": 3,
    "cmm_size": 8,
    "cmm_dim": 16,
    "prototype_num": 4,
    "region_size": 5,
}
FEATURES = np.random.default_rng(0).normal(size=(7, 10)).astype(np.float32)
ATTENTION = "encoder_decoder.cmn.linears.0.weight"
ALIAS = "encoder_decoder.model.cmn.linears.0.weight"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    weights = random_state_dict(5, **SIZES, input_dim=10)
    return {name: torch.from_numpy(value) for name, value in weights.items()}


def refusal(state: object, **sizes: float) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        load_official(state, **sizes)  # type: ignore[arg-type]
    return caught.value


def test_a_training_checkpoint_on_disk_loads_as_its_state_dict(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model_best.pth"
    checkpoint = {
        "epoch": 12,
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "monitor_best": np.float64(0.41),
    }
    torch.save(checkpoint, path)
    from_disk, from_memory = load_official(path, **SIZES), load_official(state, **SIZES)
    assert torch.equal(from_disk.encode(FEATURES), from_memory.encode(FEATURES))
    assert torch.equal(load_official(str(path), **SIZES).encode(FEATURES), from_memory.encode(FEATURES))


def test_sizes_in_the_weights_need_not_be_stated(state: dict[str, torch.Tensor]) -> None:
    needed = ("max_seq_length", "num_heads", "topk", "prototype_num", "region_size")
    model = load_official(state, **{name: SIZES[name] for name in needed})
    config = model.config
    assert (config.vocab_size, config.d_ff, config.d_vf, config.input_dim) == (21, 12, 20, 10)
    assert (config.num_layers, config.mode, model.training) == (3, "published", False)


def test_weights_the_forward_pass_never_reads_are_dropped(state: dict[str, torch.Tensor]) -> None:
    expected = load_official(state, **SIZES).encode(FEATURES)
    state["visual_extractor.model.0.weight"] = torch.zeros(2)
    state["encoder_decoder.model.tgt_embed.1.pe"] = torch.zeros(1, 9, 16)
    state["encoder_decoder.model.encoder.layer.1.region_position_embeddings.pe"] = torch.zeros(1, 9, 16)
    assert torch.equal(load_official(state, **SIZES).encode(FEATURES), expected)


def test_one_of_two_aliases_is_enough(state: dict[str, torch.Tensor]) -> None:
    expected = load_official(state, **SIZES).encode(FEATURES)
    for name in [name for name in state if name.startswith("encoder_decoder.cmn.")]:
        del state[name]
    assert torch.equal(load_official(state, **SIZES).encode(FEATURES), expected)


def test_aliases_that_differ_are_refused(state: dict[str, torch.Tensor]) -> None:
    state[ALIAS] = state[ALIAS] + 1
    error = refusal(state, **SIZES)
    assert error.code == "checkpoint-alias-differs"
    assert ATTENTION in error.message


def test_unknown_weights_are_named(state: dict[str, torch.Tensor]) -> None:
    state["encoder_decoder.surprise.weight"] = torch.zeros(2)
    error = refusal(state, **SIZES)
    assert error.code == "checkpoint-keys-unknown"
    assert "encoder_decoder.surprise.weight" in error.message


@pytest.mark.parametrize("name", ["encoder_decoder.logit.weight", "encoder_decoder.logit.bias"])
def test_missing_weights_are_named(state: dict[str, torch.Tensor], name: str) -> None:
    del state[name]
    error = refusal(state, **SIZES)
    assert error.code == "checkpoint-keys-missing"
    assert "logit" in error.message


def test_a_stated_size_that_the_weights_contradict_is_named(state: dict[str, torch.Tensor]) -> None:
    error = refusal(state, **{**SIZES, "d_ff": 99})
    assert error.code == "checkpoint-size-mismatch"
    assert "d_ff" in error.message


def test_a_weight_of_another_shape_is_named(state: dict[str, torch.Tensor]) -> None:
    state["encoder_decoder.model.decoder.norm.a_2"] = torch.zeros(3)
    assert refusal(state, **SIZES).code == "checkpoint-size-mismatch"


def test_an_unknown_size_is_named(state: dict[str, torch.Tensor]) -> None:
    error = refusal(state, **SIZES, region_sise=96)
    assert error.code == "checkpoint-size-unknown"
    assert "region_sise" in error.message


class Executable:
    def __reduce__(self) -> Any:
        return print, ("this must never run",)


@pytest.mark.parametrize("content", ["missing", "garbage", "list", "code"])
def test_files_that_are_no_checkpoint_are_refused_and_never_run(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.pth"
    if content == "garbage":
        path.write_bytes(b"not a checkpoint")
    elif content == "list":
        torch.save([torch.zeros(1)], path)
    elif content == "code":
        torch.save({"state_dict": Executable()}, path)
    assert refusal(path, **SIZES).code == "checkpoint-unreadable"
    assert "never run" not in capsys.readouterr().out
