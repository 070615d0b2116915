"""`published` mode: the authors' recorded numbers, and an independent NumPy version at other sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from naive_histgen import NaiveHistGen, random_state_dict

from histgen_lib.models.histgen import load_official

FLOAT_TOLERANCE, SCORE_TOLERANCE = 2e-4, 1e-3

CASES = [f"{kind}_N{tiles}" for kind in ("eos", "long") for tiles in (1, 95, 96, 200, 700)]

SMALL = {
    "vocab_words": 37,
    "max_seq_length": 9,
    "d_model": 24,
    "d_ff": 20,
    "d_vf": 28,
    "num_heads": 4,
    "topk": 5,
    "cmm_size": 16,
    "cmm_dim": 24,
    "prototype_num": 6,
    "region_size": 8,
    "input_dim": 32,
}


@pytest.fixture(scope="module")
def reference(shared_dir: Path) -> Path:
    return shared_dir / "reference" / "histgen"


@pytest.mark.parametrize("case", CASES)
def test_recorded_outputs_of_the_published_code_are_reproduced(case: str, reference: Path) -> None:
    """Memory, teacher-forced log-probabilities, beam ids and score of each recorded case."""
    sizes = json.loads((reference / "config.json").read_text())
    state = torch.load(reference / "official_state_dict.pth", weights_only=True)
    with np.load(reference / f"{case}.npz") as recorded:
        state["encoder_decoder.logit.bias"][0] = float(recorded["eos_bias"])
        model = load_official(state, **sizes)
        features, ids = recorded["x"][0], recorded["ids"][0]
        assert np.abs(model.encode(features).numpy() - recorded["memory"][0]).max() <= FLOAT_TOLERANCE
        log_probs = model.log_probs(features, ids[:-1]).numpy()
        assert np.abs(log_probs - recorded["teacher_logprobs"][0]).max() <= FLOAT_TOLERANCE
        found, score = model.generate(features, beam_size=3, max_tokens=sizes["max_seq_length"])
        expected = recorded["beam_ids"][0]
        assert list(found) == [number for number in expected if number > 0]
        assert abs(score - float(recorded["beam_logp"])) <= SCORE_TOLERANCE


@pytest.mark.parametrize(
    ("changes", "tiles"),
    [
        ({}, 1),  # fewer tiles than prototypes
        ({}, 5),
        ({}, 7),  # exactly one region
        ({}, 14),  # exactly two regions
        ({}, 15),  # one tile in the last region
        ({}, 40),
        ({"region_size": 2}, 5),  # a region of one tile
        ({"region_size": 96}, 30),
        ({"input_dim": 768, "num_layers": 1}, 20),
        ({"prototype_num": 1}, 9),
        ({"prototype_num": 33}, 12),
        ({"topk": 16}, 12),  # every slot
        ({"topk": 1}, 12),
        ({"num_heads": 1}, 12),
        ({"num_heads": 12, "d_ff": 70, "d_vf": 7}, 12),
    ],
)
def test_other_sizes_agree_with_an_independent_version(changes: dict[str, int], tiles: int) -> None:
    sizes = SMALL | changes
    state = random_state_dict(tiles, **sizes)
    naive = NaiveHistGen(state, **sizes)
    model = load_official({name: torch.from_numpy(value) for name, value in state.items()}, **sizes)
    rng = np.random.default_rng(tiles)
    features = rng.normal(size=(tiles, sizes["input_dim"])).astype(np.float32)
    ids = [0, 5, 9, 0, 3, 36, 12]  # an inner 0 is padding, never looked at
    assert np.abs(model.encode(features).numpy() - naive.encode(features)).max() < FLOAT_TOLERANCE
    assert np.abs(model.log_probs(features, ids).numpy() - naive.log_probs(features, ids)).max() < 1e-3


@pytest.mark.parametrize(("end_bias", "beams"), [(-9.0, 3), (0.0, 3), (2.5, 3), (1.0, 1), (2.0, 5)])
def test_beam_search_agrees_with_one_that_runs_to_the_limit_without_a_cache(
    end_bias: float, beams: int
) -> None:
    state = random_state_dict(3, **SMALL)
    state["encoder_decoder.logit.bias"][0] = end_bias
    model = load_official({name: torch.from_numpy(value) for name, value in state.items()}, **SMALL)
    features = np.random.default_rng(3).normal(size=(11, SMALL["input_dim"])).astype(np.float32)
    expected, expected_score = NaiveHistGen(state, **SMALL).beam(features, beams, SMALL["max_seq_length"])
    found, score = model.generate(features, beam_size=beams)
    assert list(found) == expected
    assert score == pytest.approx(expected_score, abs=SCORE_TOLERANCE)
