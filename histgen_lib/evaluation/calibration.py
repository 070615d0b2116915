"""Calibration of confidences, and the risk that remains after abstaining below a threshold.

Both work on outcomes: a confidence and whether the statement was right, for sentences or whole drafts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError
from histgen_lib.evaluation.bootstrap import Estimate, Floats, Statistic, estimate, finite
from histgen_lib.text.synoptic import split_sentences


@dataclass(frozen=True)
class Outcome:
    """The confidence of one statement, in [0, 1], and whether the statement was right."""

    slide_id: str
    text: str
    confidence: float
    correct: bool


@dataclass(frozen=True)
class ReliabilityBin:
    """Outcomes whose confidence lies in [low, high) (the last bin includes 1)."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float

    def to_dict(self) -> dict[str, float | int | None]:
        """Return it JSON-ready, with None for an empty bin's means."""
        means = {"confidence": finite(self.confidence), "accuracy": finite(self.accuracy)}
        return {"low": self.low, "high": self.high, "count": self.count} | means


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error (Naeini et al. 2015), Brier score, and the reliability table under them."""

    count: int
    accuracy: Estimate
    expected_calibration_error: Estimate
    brier: Estimate
    bins: tuple[ReliabilityBin, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready, with None for an empty bin's means."""
        return {
            "count": self.count,
            "accuracy": self.accuracy.to_dict(),
            "expected_calibration_error": self.expected_calibration_error.to_dict(),
            "brier": self.brier.to_dict(),
            "bins": [row.to_dict() for row in self.bins],
        }


@dataclass(frozen=True)
class RiskCoverage:
    """The share of errors among the more confident outcomes (El-Yaniv & Wiener 2010).

    Rows run from the strictest threshold to none: confidences ≥ `thresholds[i]` are the share `coverage[i]`
    of all, of which `risk[i]` is wrong. `area` is the mean risk over all coverages; lower is better.
    """

    thresholds: tuple[float, ...]
    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    area: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        columns = {"thresholds": self.thresholds, "coverage": self.coverage, "risk": self.risk}
        return {name: list(values) for name, values in columns.items()} | {"area": self.area.to_dict()}

    def threshold_for(self, max_risk: float) -> float | None:
        """Return the threshold with the highest coverage and at most `max_risk`; None if there is none."""
        kept = [t for t, risk in zip(self.thresholds, self.risk, strict=True) if risk <= max_risk]
        return kept[-1] if kept else None


def sentence_outcomes(draft: Mapping[str, Any], reference: str) -> list[Outcome]:
    """Judge a draft's sentences (`draft.json`): right if the reference has the same sentence.

    Sentences of an uncalibrated model have no confidence and are left out. Sentences are compared word for
    word, without surrounding white space.
    """
    true = {reference[start:end].strip() for start, end in split_sentences(reference)}
    return [
        Outcome(str(draft["slide_id"]), text, float(sentence["confidence"]), text in true)
        for sentence in draft["sentences"]
        if (text := str(sentence["text"]).strip()) and sentence["confidence"] is not None
    ]


def calibrate(
    outcomes: Sequence[Outcome], *, bins: int = 10, bootstrap: int = 0, seed: int = 0
) -> Calibration:
    """Measure calibration in `bins` bins of equal width; intervals resample slides, not sentences.

    Raises InvalidInputError `evaluation-no-outcomes`, `evaluation-confidence-invalid`.
    """
    confidence, correct, slides = _columns(outcomes)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    table = _bin_sums(confidence, correct, place, bins)
    names = ("accuracy", "expected_calibration_error", "brier")
    statistic = Statistic(names, lambda w: _calibration_values(w[:, slides], table, confidence, correct))
    found = estimate([statistic], int(slides.max()) + 1, resamples=bootstrap, seed=seed)
    accuracy, error, brier = (found[name] for name in names)
    return Calibration(len(outcomes), accuracy, error, brier, _rows(table, bins))


def risk_coverage(outcomes: Sequence[Outcome], *, bootstrap: int = 0, seed: int = 0) -> RiskCoverage:
    """Compute the risk–coverage curve of `outcomes`; equal confidences are kept or dropped together.

    Raises InvalidInputError `evaluation-no-outcomes`, `evaluation-confidence-invalid`.
    """
    confidence, correct, slides = _columns(outcomes)
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.diff(confidence[order], append=-1.0))
    wrong = 1.0 - correct[order]

    def area(weights: Floats) -> Floats:
        coverage, risk = _curve(weights[:, slides[order]], wrong, ends)
        steps = np.diff(coverage, axis=1, prepend=0.0)
        total: Floats = (np.nan_to_num(risk) * steps).sum(axis=1, keepdims=True)
        return total

    found = estimate([Statistic(("area",), area)], int(slides.max()) + 1, resamples=bootstrap, seed=seed)
    coverage, risk = _curve(np.ones((1, len(outcomes))), wrong, ends)
    thresholds = confidence[order][ends]
    columns = (tuple(map(float, column)) for column in (thresholds, coverage[0], risk[0]))
    kept_from, kept, wrong_share = columns
    return RiskCoverage(kept_from, kept, wrong_share, found["area"])


def _columns(outcomes: Sequence[Outcome]) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return confidence float64[n], correct float64[n] of 0 and 1, and each outcome's slide as a number."""
    if not outcomes:
        raise InvalidInputError(
            "evaluation-no-outcomes", "There are no confidences to score.", hint="Score at least one draft."
        )
    bad = next((o for o in outcomes if not (math.isfinite(o.confidence) and 0 <= o.confidence <= 1)), None)
    if bad is not None:
        raise InvalidInputError(
            "evaluation-confidence-invalid",
            f"Slide {bad.slide_id} has the confidence {bad.confidence}.",
            hint="Confidences are probabilities: numbers from 0 to 1.",
        )
    numbers = {slide: number for number, slide in enumerate(dict.fromkeys(o.slide_id for o in outcomes))}
    slides = np.array([numbers[o.slide_id] for o in outcomes], dtype=np.int64)
    confidence = np.array([o.confidence for o in outcomes], dtype=np.float64)
    return confidence, np.array([o.correct for o in outcomes], dtype=np.float64), slides


def _bin_sums(confidence: Floats, correct: Floats, place: NDArray[np.int64], bins: int) -> Floats:
    """Return each outcome's share in its bin's count, confidence and correctness; float64[n, 3, bins]."""
    table = np.zeros((confidence.size, 3, bins))
    shares = np.stack([np.ones_like(confidence), confidence, correct], axis=1)
    table[np.arange(confidence.size), :, place] = shares
    return table


def _calibration_values(weights: Floats, table: Floats, confidence: Floats, correct: Floats) -> Floats:
    total = weights.sum(axis=1)
    sums = np.tensordot(weights, table, axes=1)
    gaps = np.abs(sums[:, 1] - sums[:, 2]).sum(axis=1)
    brier = weights @ (confidence - correct) ** 2
    values: Floats = np.stack([weights @ correct, gaps, brier], axis=1) / total[:, None]
    return values


def _rows(table: Floats, bins: int) -> tuple[ReliabilityBin, ...]:
    rows = []
    for number, (count, confidence, correct) in enumerate(table.sum(axis=0).T):
        means = (float(confidence / count), float(correct / count)) if count else (math.nan, math.nan)
        rows.append(ReliabilityBin(number / bins, (number + 1) / bins, int(count), *means))
    return tuple(rows)


def _curve(weights: Floats, wrong: Floats, ends: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return coverage and risk float64[B, k] after each run of equal confidences; risk is NaN for none."""
    kept = np.cumsum(weights, axis=1)
    errors = np.cumsum(weights * wrong, axis=1)[:, ends]
    with np.errstate(invalid="ignore", divide="ignore"):
        risk: Floats = errors / kept[:, ends]
    return kept[:, ends] / kept[:, -1:], risk
