"""What counts as alike: fields of the reports, or labels from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from histgen_lib.errors import InvalidInputError
from histgen_lib.evaluation.retrieval import field_labels, read_labels, relevance

COLON = "Colon, endoscopic biopsy:\n  Adenocarcinoma\n  - Grade: 2"
LUNG = "Lung, excision:\n  Adenocarcinoma\n  - Grade: 2"
NO_DIAGNOSIS = "Lung, excision:"


def test_organ_and_diagnosis_have_to_be_equal() -> None:
    labels = field_labels([COLON, COLON.upper(), LUNG, NO_DIAGNOSIS])
    assert relevance(labels, labels).tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, False],
    ]


def test_any_field_can_be_chosen() -> None:
    labels = field_labels([COLON, LUNG], ["Grade"])
    assert relevance(labels, labels).all()


def test_a_field_that_no_report_states_is_an_error() -> None:
    with pytest.raises(InvalidInputError) as caught:
        field_labels([COLON], ["stage"])
    assert caught.value.code == "evaluation-relevance-unknown"


@pytest.mark.parametrize(
    ("name", "text"),
    [("labels.json", '{"a": "x", "b": "y", "c": "x"}'), ("labels.csv", "id,label\na,x\nb,y\nc,x\n")],
)
def test_labels_come_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    labels = read_labels(path, ["a", "b", "c", "unlabelled"])
    assert labels == [("x",), ("y",), ("x",), None]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("name,label\na,x\n", "evaluation-labels-unreadable"),
        ("id,label\nz,x\n", "evaluation-relevance-unknown"),
    ],
)
def test_a_file_that_labels_nothing_is_an_error(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(InvalidInputError) as caught:
        read_labels(path, ["a"])
    assert caught.value.code == code
