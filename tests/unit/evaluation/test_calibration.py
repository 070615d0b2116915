"""Confidences against outcomes: known values, bins, abstention, and refusals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from histgen_lib.errors import InvalidInputError
from histgen_lib.evaluation import Outcome, calibrate, risk_coverage, sentence_outcomes


def _outcomes(pairs: list[tuple[float, bool]], *, per_slide: int = 1) -> list[Outcome]:
    return [
        Outcome(f"s{n // per_slide}", "", confidence, correct)
        for n, (confidence, correct) in enumerate(pairs)
    ]


def test_known_errors() -> None:
    found = calibrate(_outcomes([(0.95, True), (0.95, False), (0.15, False), (0.15, False)]), bins=10)
    assert found.accuracy.value == 0.25
    assert found.expected_calibration_error.value == pytest.approx((2 * 0.45 + 2 * 0.15) / 4)
    assert found.brier.value == pytest.approx((0.05**2 + 0.95**2 + 2 * 0.15**2) / 4)


def test_certain_and_right_has_no_error_and_falls_in_the_last_bin() -> None:
    found = calibrate(_outcomes([(1.0, True)] * 5), bootstrap=50)
    assert found.expected_calibration_error.value == found.brier.value == found.brier.high == 0
    assert [row.count for row in found.bins] == [0] * 9 + [5]


def test_well_calibrated_confidences_have_a_small_error_with_an_interval() -> None:
    rng = np.random.default_rng(5)
    confidences = rng.random(4000)
    found = calibrate(
        _outcomes(list(zip(confidences, rng.random(4000) < confidences, strict=True))), bootstrap=50
    )
    error = found.expected_calibration_error
    assert error.value < 0.04
    assert error.low < error.high
    assert sum(row.count for row in found.bins) == 4000
    assert all(abs(row.accuracy - row.confidence) < 0.12 for row in found.bins)


def test_the_table_is_json_ready_with_null_for_empty_bins() -> None:
    rows = json.loads(json.dumps(calibrate(_outcomes([(0.5, True)]), bins=2).to_dict(), allow_nan=False))[
        "bins"
    ]
    assert rows[0] == {"low": 0.0, "high": 0.5, "count": 0, "confidence": None, "accuracy": None}
    assert rows[1] == {"low": 0.5, "high": 1.0, "count": 1, "confidence": 0.5, "accuracy": 1.0}


def test_intervals_resample_slides_so_that_repeated_sentences_do_not_narrow_them() -> None:
    rng = np.random.default_rng(1)
    single = [(0.5, bool(flag)) for flag in rng.random(60) < 0.5]
    repeated = [pair for pair in single for _ in range(20)]
    wide = calibrate(_outcomes(single), bootstrap=200, seed=4).accuracy
    same = calibrate(_outcomes(repeated, per_slide=20), bootstrap=200, seed=4).accuracy
    assert (same.low, same.high) == pytest.approx((wide.low, wide.high))


def test_risk_falls_as_uncertain_outcomes_are_left_out_and_ties_stay_together() -> None:
    found = risk_coverage(_outcomes([(0.9, True), (0.7, True), (0.7, False), (0.1, False)]))
    assert found.thresholds == (0.9, 0.7, 0.1)
    assert found.coverage == (0.25, 0.75, 1.0)
    assert found.risk == pytest.approx((0, 1 / 3, 0.5))
    assert found.area.value == pytest.approx(0.5 * (1 / 3) + 0.25 * 0.5)


def test_the_threshold_keeps_as_much_as_the_risk_allows() -> None:
    found = risk_coverage(_outcomes([(0.9, True), (0.7, True), (0.7, False), (0.1, False)]))
    assert found.threshold_for(0.4) == 0.7
    assert found.threshold_for(0.0) == 0.9
    assert risk_coverage(_outcomes([(0.9, False)])).threshold_for(0.5) is None


def test_the_area_has_an_interval_and_is_json_ready() -> None:
    rng = np.random.default_rng(2)
    outcomes = _outcomes([(float(c), bool(c > rng.random())) for c in rng.random(200)])
    found = risk_coverage(outcomes, bootstrap=100)
    assert found.area.low < found.area.value < found.area.high
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_draft_sentence_is_right_if_the_reference_has_it_word_for_word() -> None:
    reference = "Breast, core needle biopsy:\n  Fibroadenoma\n  - Granulomas: present"
    draft = {
        "slide_id": "s1",
        "sentences": [
            {"text": "Breast, core needle biopsy:", "confidence": 0.9},
            {"text": "  Fibroadenoma ", "confidence": 0.8},
            {"text": "- Granulomas: not identified", "confidence": 0.4},
            {"text": " ", "confidence": 0.1},
        ],
    }
    found = sentence_outcomes(draft, reference)
    assert [(outcome.confidence, outcome.correct) for outcome in found] == [
        (0.9, True),
        (0.8, True),
        (0.4, False),
    ]
    assert {outcome.slide_id for outcome in found} == {"s1"}


def test_no_outcomes_and_impossible_confidences_are_refused() -> None:
    for function in (calibrate, risk_coverage):
        with pytest.raises(InvalidInputError) as caught:
            function([])
        assert caught.value.code == "evaluation-no-outcomes"
        for value in (1.2, -0.1, math.nan):
            with pytest.raises(InvalidInputError) as caught:
                function([Outcome("s", "", value, True)])
            assert caught.value.code == "evaluation-confidence-invalid"
