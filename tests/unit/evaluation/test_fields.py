"""Field accuracy: exactly the same value, over the references that state the field."""

from __future__ import annotations

import math

from histgen_lib.evaluation import FieldScore
from histgen_lib.evaluation.bootstrap import estimate
from histgen_lib.evaluation.fields import ALL_RIGHT, compare_fields

REFERENCES = [
    {"diagnosis": "Adenocarcinoma", "grade": "2"},
    {"diagnosis": "Adenocarcinoma", "grade": "3"},
    {"diagnosis": "Fibroadenoma"},
    {"diagnosis": "Fibroadenoma"},
]
PREDICTIONS = [
    {"diagnosis": "Adenocarcinoma", "grade": "2"},
    {"diagnosis": "Adenocarcinoma", "grade": "2"},
    {"diagnosis": "Fibroadenoma", "grade": "1"},
    {"margins": "involved"},
]


def _scores() -> tuple[dict[str, FieldScore], float]:
    table = compare_fields(REFERENCES, PREDICTIONS)
    found = estimate([table.statistic()], len(REFERENCES))
    return {score.name: score for score in table.scores(found)}, found[ALL_RIGHT].value


def test_accuracy_is_over_the_references_that_state_the_field() -> None:
    scores, _ = _scores()
    assert scores["diagnosis"].accuracy.value == 3 / 4
    assert scores["grade"].accuracy.value == 1 / 2
    assert (scores["grade"].references, scores["diagnosis"].references) == (2, 4)


def test_wrong_missing_and_spurious_values_are_distinguished() -> None:
    scores, _ = _scores()
    counts = {name: (score.wrong, score.missing, score.spurious) for name, score in scores.items()}
    assert counts == {"diagnosis": (0, 1, 0), "grade": (1, 0, 1), "margins": (0, 0, 1)}


def test_a_field_that_no_reference_states_has_no_accuracy() -> None:
    scores, _ = _scores()
    assert math.isnan(scores["margins"].accuracy.value)
    assert scores["margins"].to_dict()["accuracy"] == {"value": None, "low": None, "high": None}


def test_a_report_is_all_right_only_without_spurious_fields() -> None:
    assert _scores()[1] == 1 / 4


def test_a_value_that_differs_in_case_or_wording_is_wrong() -> None:
    table = compare_fields(
        [{"grade": "2"}, {"necrosis": "present"}], [{"grade": "II"}, {"necrosis": "Present"}]
    )
    assert not table.right.any()


def test_reports_without_any_field_have_nothing_to_get_right() -> None:
    table = compare_fields([{}, {}], [{}, {}])
    found = estimate([table.statistic()], 2, resamples=10)
    assert table.names == ()
    assert math.isnan(found[ALL_RIGHT].value)
