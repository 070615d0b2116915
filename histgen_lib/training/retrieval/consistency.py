"""When no region of a slide supports a line: thresholds fitted, and measured, on the validation split.

A line's score is the best cosine of its vector with a region of the slide. Right lines are those of the true
reports. Wrong ones are the same lines with another value, as the training reports of the same organ state it.
A threshold flags at most one right line in twenty and, under that limit, tells best; a field that flags fewer
than half of its wrong lines, or has too few right ones to tell, is not checked.

The counts that are written are cross-fitted: each half of the slides is judged by the threshold of the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from histgen_lib.models.fgcr.network import Fgcr
from histgen_lib.pipeline.consistency import Consistency, Figures
from histgen_lib.text.synoptic import parse_report
from histgen_lib.training.retrieval.data import Batcher, sentences_of
from histgen_lib.training.retrieval.embedding import embed_slides, embed_texts

MOST_FALSE = 0.05
LEAST_DETECTED = 0.5
LEAST_LINES = 12


@dataclass(frozen=True)
class ScoredLine:
    """A line of slide number `slide` that states `field`, its score, and whether it is right."""

    slide: int
    field: str
    score: float
    right: bool


def fit_consistency(lines: Sequence[ScoredLine]) -> Consistency:
    """Fit a threshold for each field, and one for all lines of the fields that can be checked."""
    by_field: dict[str, list[ScoredLine]] = defaultdict(list)
    for line in lines:
        by_field[line.field].append(line)
    figures = {field: _figures(found) for field, found in sorted(by_field.items())}
    fields = {field: found for field, found in figures.items() if found}
    overall = _figures([line for line in lines if line.field in fields])
    return Consistency(overall, fields, frozenset(figures) - frozenset(fields))


def score_lines(network: Fgcr, train: Batcher, held_out: Batcher) -> list[ScoredLine]:
    """Score the right and the wrong lines of the held-out slides."""
    others = Alternatives.of([example.report for example in train.examples])
    texts = [_lines_of(example.report, others) for example in held_out.examples]
    different = sorted({text for lines in texts for text, _, _ in lines})
    if not different:
        return []
    encoded = [held_out.words.encode(text) for text in different]
    vectors = dict(zip(different, embed_texts(network, encoded), strict=True))
    _, seen = embed_slides(network, map(held_out.seen, range(len(held_out.examples))))
    scored = []
    for slide, (regions, lines) in enumerate(zip(seen, texts, strict=True)):
        for text, field, right in lines:
            scored.append(ScoredLine(slide, field, float((regions @ vectors[text]).max()), right))
    return scored


@dataclass(frozen=True)
class Alternatives:
    """What reports of one organ state for each field: (organ, field) → line → its value."""

    lines: Mapping[tuple[str, str], Mapping[str, str]]

    @classmethod
    def of(cls, reports: Sequence[str]) -> Alternatives:
        """Collect them. Under the organ "" stand those of all reports."""
        found: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        for report in dict.fromkeys(reports):
            organ = parse_report(report).get("organ", "")
            for line in sentences_of(report):
                field, value = stated_by(line)
                for place in {organ, ""} - ({organ} if field == "organ" else set()):
                    found[place, field][line] = value
        return cls(found)

    def to(self, line: str, organ: str) -> list[str]:
        """Return lines that state another value of the line's field: the organ's if there are any."""
        field, value = stated_by(line)
        for place in (organ, ""):
            others = [text for text, other in self.lines.get((place, field), {}).items() if other != value]
            if others:
                return others
        return []


def stated_by(line: str) -> tuple[str, str]:
    """Return the first field that a line states, and its value; ("", "") if it states none."""
    return next(iter(parse_report(line).items()), ("", ""))


def _lines_of(report: str, others: Alternatives) -> list[tuple[str, str, bool]]:
    """Return the lines of a report that have a wrong form, and these: text, field, whether right."""
    organ = parse_report(report).get("organ", "")
    found = []
    for line in sentences_of(report):
        wrong = others.to(line, organ)
        field, _ = stated_by(line)
        if wrong and field:
            found += [(line, field, True), *((text, field, False) for text in wrong)]
    return found


def _figures(lines: Sequence[ScoredLine]) -> Figures | None:
    """Return the figures of some lines; None if they cannot be checked reliably."""
    right, wrong = ([line for line in lines if line.right is kind] for kind in (True, False))
    if len(right) < LEAST_LINES or len(wrong) < LEAST_LINES:
        return None
    flagged = {True: 0, False: 0}
    for half in (0, 1):
        threshold = _threshold([line for line in lines if line.slide % 2 != half])
        for line in lines:
            flagged[line.right] += line.slide % 2 == half and line.score < threshold
    detected, false = flagged[False] / len(wrong), flagged[True] / len(right)
    if detected < LEAST_DETECTED or false > 2 * MOST_FALSE:
        return None
    threshold = round(_threshold(lines), 4)
    return Figures(threshold, len(right), flagged[True], len(wrong), flagged[False])


def _threshold(lines: Sequence[ScoredLine]) -> float:
    """Return the threshold that tells right from wrong lines best, among those that flag few right ones."""
    right = np.sort([line.score for line in lines if line.right])
    wrong = np.sort([line.score for line in lines if not line.right])
    if not len(right):
        return -1.0
    candidates = right[: int(MOST_FALSE * len(right)) + 1]
    detected = np.searchsorted(wrong, candidates) / max(len(wrong), 1)
    gained = detected - np.arange(len(candidates)) / len(right)
    best = int(gained.argmax())
    below = wrong[wrong < candidates[best]]
    return float((candidates[best] + (below[-1] if len(below) else candidates[best] - 0.02)) / 2)
