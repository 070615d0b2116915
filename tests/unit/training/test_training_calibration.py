"""What is fitted after training: calibration, abstention and the training domain."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import planted_bags
import pytest

from histgen_lib.models.histgen.decoding import Decoded
from histgen_lib.text.tokenizers import BpeTokenizer
from histgen_lib.training.data import Example
from histgen_lib.training.report.calibration import (
    Judged,
    calibration_error,
    fit_abstention,
    fit_calibration,
    fit_domain,
    judge,
)

REPORT = planted_bags.report(0, 1)
OTHER = planted_bags.report(0, 0)


def _drafts(confidence: list[float], right: list[bool]) -> list[list[Judged]]:
    return [[Judged(c, r, diagnosis=True)] for c, r in zip(confidence, right, strict=True)]


def test_a_sentence_is_right_if_the_report_has_exactly_the_same_line() -> None:
    tokenizer = BpeTokenizer.train([REPORT, OTHER], vocab_size=300)
    tokens = np.array(tokenizer.encode(OTHER))
    logs = np.full(len(tokens), -0.01, dtype=np.float32)
    draft = Decoded(tokens, logs, np.ones((len(tokens), 1), dtype=np.float32), -0.1, ended=True)
    judged = list(judge(draft, Example("a", REPORT, Path("unused"), (1,)), tokenizer))
    assert [(s.right, s.diagnosis) for s in judged] == [(True, False), (True, True), (False, False)]
    assert all(0 < s.raw < 1 for s in judged)


def test_few_sentences_get_a_temperature_and_many_an_isotonic_table() -> None:
    few = [Judged(0.9, right=row % 2 == 0, diagnosis=False) for row in range(40)]
    assert fit_calibration(few).method == "temperature"
    assert fit_calibration(few * 10).method == "isotonic"
    assert fit_calibration([]).method == "none"


def test_calibration_maps_confidence_to_accuracy() -> None:
    """Overconfident sentences are right 6 times in 10 at a raw confidence of 0.95."""
    sentences = [Judged(0.95, right=row % 10 < 6, diagnosis=False) for row in range(400)]
    fitted = fit_calibration(sentences)
    raw, right = [s.raw for s in sentences], [s.right for s in sentences]
    assert calibration_error(raw, right) == pytest.approx(0.35, abs=0.01)
    assert calibration_error([fitted.apply(r) for r in raw], right) < 0.02


def test_abstention_uses_the_lowest_threshold_that_keeps_diagnoses_right() -> None:
    drafts = _drafts([0.55, 0.6, 0.7, 0.8, 0.9], [False, False, True, True, True])
    section, effect = fit_abstention(drafts, fit_calibration([]))
    assert section["threshold"] == 0.7
    assert effect["abstention_coverage"] == pytest.approx(0.6)
    assert effect["abstention_accuracy"] == 1.0


def test_abstention_never_goes_below_even_odds() -> None:
    section, _ = fit_abstention(_drafts([0.2, 0.9], [True, True]), fit_calibration([]))
    assert section["threshold"] == 0.5


def test_abstention_without_any_diagnosis_line_still_has_a_threshold() -> None:
    section, effect = fit_abstention([[]], fit_calibration([]))
    assert section["threshold"] == 0.5
    assert effect["diagnosis_accuracy"] == 0.0


def test_the_domain_threshold_accepts_its_domain_and_rejects_another() -> None:
    rng = np.random.default_rng(1)
    bags = [planted_bags.planted_bag(str(row), rng, row % 2, row // 2 % 2) for row in range(60)]
    examples = [Example(bag.slide_id, "", (Path("unused"),), (1,), held=(bag,)) for bag in bags]
    domain, threshold, scores = fit_domain(examples[:50], examples[50:], seed=0)
    strange = dataclasses.replace(bags[0], features=(bags[0].features * -3).astype(np.float16))
    assert max(scores) < threshold
    assert domain.score(strange.features) > threshold


def test_the_domain_of_huge_slides_samples_tiles_of_each() -> None:
    """400 slides of 10 000 tiles with 1024 numbers each would be 33 GB at once."""
    bag = planted_bags.planted_bag("a", np.random.default_rng(0), 0, 0)
    huge = dataclasses.replace(
        bag, features=np.repeat(bag.features, 1000, axis=0), xy=np.repeat(bag.xy, 1000, axis=0)
    )
    example = Example("a", "", (Path("unused"),), (1,), held=(huge,))
    domain, _, _ = fit_domain([example], [example], seed=0)
    assert len(domain.anchors) <= 512


def test_calibration_error_without_sentences_is_zero() -> None:
    assert calibration_error([], []) == 0.0
