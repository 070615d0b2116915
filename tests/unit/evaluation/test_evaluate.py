"""The whole evaluation, without Java: what it reports, writes and refuses."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from histgen_lib.errors import InvalidInputError
from histgen_lib.evaluation import EvaluationResult, Pair, evaluate_pairs

RIGHT = "Breast, core needle biopsy:\n  Mucinous carcinoma\n  - Grade: 2"
WRONG = "Breast, core needle biopsy:\n  Mucinous carcinoma\n  - Grade: 3"
PAIRS = [Pair("s1", RIGHT, RIGHT), Pair("s2", RIGHT, WRONG), Pair("s3", WRONG, WRONG), Pair("s4", RIGHT, "")]


def _score(pairs: list[Pair], **options: int) -> EvaluationResult:
    return evaluate_pairs(pairs, with_meteor=False, **options)  # type: ignore[arg-type]


def test_known_values() -> None:
    result = _score(PAIRS)
    assert result.metrics["exact_report"].value == 0.5
    assert result.metrics["fields_all_right"].value == 0.5
    assert {field.name: field.accuracy.value for field in result.fields} == {
        "organ": 0.75,
        "procedure": 0.75,
        "diagnosis": 0.75,
        "grade": 0.5,
    }
    assert {field.name: field.missing for field in result.fields}["grade"] == 1


def test_a_perfect_prediction_scores_one_everywhere() -> None:
    result = _score([Pair("s1", RIGHT, RIGHT), Pair("s2", WRONG, WRONG)], bootstrap=50)
    values = [estimate.to_dict() for estimate in result.metrics.values()]
    assert all(v == pytest.approx({"value": 1, "low": 1, "high": 1}, abs=1e-6) for v in values)


def test_layout_alone_does_not_break_an_exact_match() -> None:
    assert _score([Pair("1", RIGHT, " ".join(RIGHT.split()))]).metrics["exact_report"].value == 1


def test_every_metric_and_field_gets_an_interval_around_its_value() -> None:
    result = _score(PAIRS, bootstrap=300, seed=1)
    estimates = [*result.metrics.values(), *(field.accuracy for field in result.fields)]
    assert all(e.low <= e.value <= e.high and e.low < e.high for e in estimates)


def test_the_order_of_rows_changes_no_value() -> None:
    forward, backward = _score(PAIRS).metrics, _score(PAIRS[::-1]).metrics
    for name, estimate in forward.items():
        assert backward[name].value == pytest.approx(estimate.value)


def test_the_result_is_json_ready_and_reproducible() -> None:
    first, second = (
        json.dumps(_score(PAIRS, bootstrap=20).to_dict(with_cases=True), allow_nan=False) for _ in "ab"
    )
    assert first == second
    report = json.loads(first)
    assert report["schema"] == 1
    assert report["pairs"] == 4
    assert report["tokenize"] == "none"
    assert report["bootstrap"] == {"resamples": 20, "seed": 0, "interval": 0.95}
    assert report["reg2025"]["entities"] == "lexical"
    assert report["reg2025"]["embedding"] == "hashed-ngrams"
    assert report["reg2025"]["comparable_with_leaderboard"] is False
    assert [case["id"] for case in report["cases"]] == ["s1", "s2", "s3", "s4"]
    assert report["cases"][0]["BLEU_4"] == pytest.approx(1)


def test_the_notes_tell_what_limits_the_scores() -> None:
    notes = " ".join(_score(PAIRS).notes)
    assert "not comparable with the challenge's leaderboard" in notes
    assert "7 texts contain line breaks" in notes
    assert "1 predictions are blank" in notes


def test_csv_files_hold_every_metric_field_and_report(tmp_path: Path) -> None:
    result = _score(PAIRS, bootstrap=20)
    result.to_csv(tmp_path / "scores.csv")
    result.cases_to_csv(tmp_path / "cases.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        scores = {(row["kind"], row["name"]): row for row in csv.DictReader(file)}
    with (tmp_path / "cases.csv").open(newline="") as file:
        cases = {row["id"]: row for row in csv.DictReader(file)}
    assert float(scores["field", "grade"]["value"]) == 0.5
    assert float(scores["metric", "BLEU_1"]["high"]) == result.metrics["BLEU_1"].high
    assert float(cases["s3"]["exact_report"]) == 1
    assert len(scores) == len(result.metrics) + len(result.fields)


def test_a_thousand_resamples_of_a_thousand_slides_take_seconds() -> None:
    result = _score([Pair(str(n), RIGHT, RIGHT if n % 3 else WRONG) for n in range(1000)], bootstrap=1000)
    accuracy = {field.name: field.accuracy for field in result.fields}["grade"]
    standard_error = np.sqrt(accuracy.value * (1 - accuracy.value) / 1000)
    assert accuracy.high - accuracy.low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


@pytest.mark.parametrize(
    ("pairs", "options", "code"),
    [
        ([], {}, "evaluation-no-pairs"),
        (PAIRS, {"tokenize": "moses"}, "evaluation-tokenizer-unknown"),
        (PAIRS, {"bootstrap": -1}, "evaluation-bootstrap-invalid"),
    ],
)
def test_invalid_requests_are_refused(pairs: list[Pair], options: dict[str, int], code: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        evaluate_pairs(pairs, **options)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_importing_the_room_loads_no_torch_and_no_scorer() -> None:
    heavy = "('torch', 'pycocoevalcap', 'tokenizers')"
    program = f"import histgen_lib.evaluation, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
