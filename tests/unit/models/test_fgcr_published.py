"""FGCR's published mode: the authors' recorded numbers, and an independent NumPy version at other sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from naive_fgcr import NaiveFgcr, random_case, random_state_dict

from histgen_lib.models.fgcr import load_official

TOLERANCE = 2e-4

SMALL = {
    "patch_dim": 13,
    "prompt_num": 5,
    "dim": 12,
    "depth": 3,
    "heads": 2,
    "mlp_dim": 9,
    "dim_head": 5,
    "num_kernel": 6,
    "text_heads": 3,
    "text_layers": 2,
    "text_ff": 10,
    "vocab_size": 23,
}


@pytest.fixture(scope="module")
def reference(shared_dir: Path) -> Path:
    return shared_dir / "reference" / "fgcr"


@pytest.fixture(scope="module")
def expected(reference: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((reference / "expected.json").read_text())
    return content


def test_recorded_outputs_of_the_published_code_are_reproduced(
    reference: Path, expected: dict[str, Any]
) -> None:
    """Every recorded array, the anchors after each layer among them."""
    model = load_official(reference / "official_state_dict.pth", **expected["model"])
    with np.load(reference / "case.npz") as case:
        found = model.run(case)
        recorded = {name.removeprefix("out_"): case[name] for name in case if name.startswith("out_")}
    assert set(found) == set(recorded)
    for name, value in recorded.items():
        assert found[name].shape == value.shape
        assert np.abs(found[name] - value).max() <= TOLERANCE, name


def test_recorded_losses_of_the_published_code_are_reproduced(
    reference: Path, expected: dict[str, Any]
) -> None:
    model = load_official(reference / "official_state_dict.pth", **expected["model"])
    with np.load(reference / "case.npz") as case:
        found = model.losses(case)
    assert set(found) == set(expected["losses"])
    for name, value in expected["losses"].items():
        assert abs(found[name] - value) <= TOLERANCE, name


def test_recorded_anchors_of_the_published_code_are_reproduced(
    reference: Path, expected: dict[str, Any]
) -> None:
    model = load_official(reference / "official_state_dict.pth", **expected["model"])
    with np.load(reference / "case.npz") as case:
        for item in (0, 1):
            for npk in expected["npks"]:
                found = model.anchors(case[f"item{item}_pos"], npk)
                assert np.array_equal(found, case[f"item{item}_anchors_npk{npk}"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"depth": 1},
        {"depth": 7, "dim_head": 3},
        {"heads": 1, "dim_head": 12},  # the width of the network: no output map
        {"heads": 4, "text_heads": 1, "mlp_dim": 31, "text_ff": 3},
        {"num_kernel": 1},
        {"num_kernel": 31, "prompt_num": 2},  # more anchors than tiles
        {"patch_dim": 1, "vocab_size": 2, "text_layers": 1},
        {"dim": 24, "word_dim": 3},
    ],
)
def test_other_sizes_agree_with_an_independent_version(changes: dict[str, int]) -> None:
    sizes = SMALL | changes
    passed = {name: value for name, value in sizes.items() if name != "word_dim"}
    for seed in range(2):
        state = random_state_dict(seed, **sizes)
        case = random_case(seed, **sizes)
        model, naive = load_official(state, **passed), NaiveFgcr(state, **sizes)
        found, wanted = model.run(case), naive.run(case)
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            assert np.abs(found[name] - value).max() <= TOLERANCE, name
        losses = naive.losses(case)
        assert model.losses(case) == pytest.approx(losses, abs=TOLERANCE)
