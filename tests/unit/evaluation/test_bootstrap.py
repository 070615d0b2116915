"""Intervals: seeded, over whole slides, equal to recomputing the metric on each resample."""

from __future__ import annotations

import math

import numpy as np
import pytest

from histgen_lib.evaluation.bootstrap import Estimate, additive, estimate, mean
from histgen_lib.evaluation.captions import (
    BLEU_NAMES,
    STATISTICS,
    bleu_from_totals,
    bleu_statistics,
    meteor_counts,
    meteor_from_totals,
)

SOUP = 80


def test_an_interval_equals_recomputing_bleu_on_every_resample(soup: list[tuple[str, str]]) -> None:
    references, predictions = (np.array(side, dtype=object) for side in zip(*soup[:SOUP], strict=True))
    statistic = additive(BLEU_NAMES, bleu_statistics(references, predictions), bleu_from_totals)
    found = estimate([statistic], SOUP, resamples=50, seed=3)["BLEU_2"]
    draws = np.random.default_rng(3).integers(0, SOUP, size=(50, SOUP))
    scores = [
        bleu_from_totals(bleu_statistics(references[d], predictions[d]).sum(0, keepdims=True))[0, 1]
        for d in draws
    ]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(scores, [2.5, 97.5])))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(0).random((40, 1))
    first, again, other = (
        estimate([mean(["x"], values)], 40, resamples=200, seed=seed)["x"] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert first.low < first.value < first.high


def test_more_resamples_begin_with_the_same_draws_whatever_the_chunk() -> None:
    values = np.random.default_rng(0).random((30, 1))
    weights = [row for chunk in _chunks(values) for row in chunk]
    assert len(weights) == 150
    assert all(row.sum() == 30 for row in weights)


def _chunks(values: np.ndarray) -> list[np.ndarray]:
    seen: list[np.ndarray] = []
    spy = additive(["x"], values, lambda totals: totals)
    watched = type(spy)(spy.names, lambda weights: (seen.append(weights), spy.compute(weights))[1])
    estimate([watched], len(values), resamples=150)
    return seen[1:]


def test_a_constant_metric_has_an_interval_of_zero_width() -> None:
    found = estimate([mean(["x"], np.ones((10, 1)))], 10, resamples=100)["x"]
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_without_resamples_or_with_one_slide_there_is_no_interval() -> None:
    for count, resamples in ((10, 0), (1, 100)):
        found = estimate([mean(["x"], np.ones((count, 1)))], count, resamples=resamples)["x"]
        assert found.value == 1
        assert found.to_dict() == {"value": 1.0, "low": None, "high": None}


def test_a_mean_over_no_slides_is_nan_and_not_zero() -> None:
    counted = np.array([[True, False], [True, False]])
    found = estimate([mean(["some", "none"], np.ones((2, 2)), counted)], 2, resamples=20)
    assert found["some"] == Estimate(1.0, 1.0, 1.0)
    assert found["none"].to_dict() == {"value": None, "low": None, "high": None}


def test_meteor_is_one_for_a_perfect_corpus_and_zero_for_an_empty_one() -> None:
    perfect = np.zeros((2, STATISTICS))
    perfect[:, [0, 1, 4, 5, 20, 21, 22]] = [5, 5, 5, 5, 1, 5, 5]
    assert meteor_from_totals(meteor_counts(perfect).sum(0, keepdims=True)) == pytest.approx(1)
    assert meteor_from_totals(np.zeros((1, STATISTICS))) == 0


def test_an_estimate_writes_nan_as_null() -> None:
    assert Estimate(math.inf).to_dict() == {"value": None, "low": None, "high": None}
