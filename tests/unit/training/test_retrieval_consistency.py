"""Thresholds below which no region supports a line: fitted so that right lines are rarely flagged."""

from __future__ import annotations

import numpy as np
import pytest

from histgen_lib.pipeline.consistency import Consistency
from histgen_lib.training.retrieval.consistency import (
    LEAST_LINES,
    MOST_FALSE,
    Alternatives,
    ScoredLine,
    fit_consistency,
)

REPORTS = (
    "Colon, biopsy:\n  Adenoma\n  - Necrosis: present",
    "Colon, excision:\n  Adenocarcinoma\n  - Necrosis: not identified",
    "Lung, biopsy:\n  Small cell carcinoma",
)


def _lines(field: str, gap: float, slides: int = 100) -> list[ScoredLine]:
    """Score one right and one wrong line of each slide, `gap` standard deviations apart."""
    rng = np.random.default_rng(3)
    right, wrong = rng.normal(gap * 0.1, 0.1, slides), rng.normal(0, 0.1, slides)
    scores = [(slide, float(score), kind) for kind, some in ((True, right), (False, wrong))
              for slide, score in enumerate(some)]  # fmt: skip
    return [ScoredLine(slide, field, score, kind) for slide, score, kind in scores]


def test_a_field_that_can_be_told_gets_a_threshold_and_its_measured_rates() -> None:
    found = fit_consistency(_lines("grade", 5))
    figures = found.fields["grade"]
    assert figures.right == figures.wrong == 100
    assert figures.right_flagged <= 2 * MOST_FALSE * 100
    assert figures.wrong_flagged >= 90
    assert 0.1 < figures.threshold < 0.5
    assert found.lines == figures
    assert not found.unchecked
    assert Consistency.from_config(found.to_config()) == found


def test_a_field_that_cannot_be_told_is_not_checked_rather_than_flagged_at_random() -> None:
    found = fit_consistency([*_lines("grade", 5), *_lines("mitotic_score", 0.2)])
    assert found.unchecked == {"mitotic_score"}
    assert list(found.fields) == ["grade"]


def test_a_field_with_few_lines_is_not_checked() -> None:
    found = fit_consistency(_lines("margins", 9, slides=LEAST_LINES - 1))
    assert found == Consistency(unchecked=frozenset({"margins"}))


def test_each_half_is_judged_by_the_threshold_of_the_other() -> None:
    """Odd slides score far lower: a threshold of the even ones flags all their right lines."""
    shifted = [
        ScoredLine(one.slide, one.field, one.score - one.slide % 2, one.right) for one in _lines("grade", 9)
    ]
    assert fit_consistency(shifted).unchecked == {"grade"}


@pytest.mark.parametrize(
    ("line", "organ", "expected"),
    [
        ("- Necrosis: present", "Colon", ["- Necrosis: not identified"]),
        ("Adenoma", "Colon", ["Adenocarcinoma"]),
        ("Small cell carcinoma", "Lung", ["Adenoma", "Adenocarcinoma"]),
        ("Lung, biopsy:", "Lung", ["Colon, biopsy:", "Colon, excision:"]),
        ("- Grade: 2", "Colon", []),
    ],
)
def test_wrong_lines_state_another_value_of_the_same_field(
    line: str, organ: str, expected: list[str]
) -> None:
    assert Alternatives.of(REPORTS).to(line, organ) == expected
