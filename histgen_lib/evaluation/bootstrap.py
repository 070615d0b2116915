"""Estimates with percentile-bootstrap intervals: slides are resampled and metrics recomputed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CHUNK = 64  # resamples held in memory at once: 64 × 10 000 slides × 8 bytes = 5 MB


@dataclass(frozen=True)
class Estimate:
    """A metric's value and its 95 % percentile interval; NaN if there was nothing to measure."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def to_dict(self) -> dict[str, float | None]:
        """Return the three numbers JSON-ready, with None for NaN."""
        return {"value": finite(self.value), "low": finite(self.low), "high": finite(self.high)}


@dataclass(frozen=True)
class Statistic:
    """Named metrics as a function of the weight of each slide.

    `compute` maps weights float64[B, n] (B resamples of n slides) to values float64[B, m], a column per name.
    """

    names: tuple[str, ...]
    compute: Callable[[Floats], Floats]


def additive(names: Sequence[str], sums: Floats, finish: Callable[[Floats], Floats]) -> Statistic:
    """Build a statistic of totals: `sums` float64[n, k] per slide; `finish` maps totals [B, k] to [B, m]."""
    return Statistic(tuple(names), lambda weights: finish(weights @ sums))


def mean(names: Sequence[str], values: Floats, counted: NDArray[np.bool_] | None = None) -> Statistic:
    """Build column means of `values` float64[n, m], over the slides where `counted` bool[n, m] holds.

    All slides count if it is None; the mean is NaN if no slide counts.
    """
    mask = np.ones(values.shape) if counted is None else counted.astype(np.float64)
    columns = values.shape[1]
    sums = np.concatenate([np.where(mask > 0, values, 0.0), mask], axis=1)

    def finish(totals: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio: Floats = totals[:, :columns] / totals[:, columns:]
        return ratio

    return additive(names, sums, finish)


def estimate(
    statistics: Sequence[Statistic], count: int, *, resamples: int = 0, seed: int = 0
) -> dict[str, Estimate]:
    """Compute each statistic over `count` slides, with intervals from `resamples` seeded resamples.

    All statistics see the same resamples. With 0 resamples, or a single slide, intervals are NaN.
    """
    names = [name for statistic in statistics for name in statistic.names]
    values = _values(statistics, np.ones((1, count)))[0]
    if resamples < 1 or count < 2:
        return {name: Estimate(float(value)) for name, value in zip(names, values, strict=True)}
    drawn = np.concatenate([_values(statistics, weights) for weights in _weights(count, resamples, seed)])
    low, high = _percentiles(drawn)
    triples = zip(names, values, low, high, strict=True)
    return {name: Estimate(float(value), float(a), float(b)) for name, value, a, b in triples}


def finite(value: float) -> float | None:
    """Return the number, or None if JSON cannot represent it."""
    return float(value) if math.isfinite(value) else None


def _values(statistics: Sequence[Statistic], weights: Floats) -> Floats:
    return np.concatenate([statistic.compute(weights) for statistic in statistics], axis=1)


def _weights(count: int, resamples: int, seed: int) -> Iterator[Floats]:
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, _CHUNK):
        draws = rng.integers(0, count, size=(min(_CHUNK, resamples - start), count))
        yield np.stack([np.bincount(row, minlength=count) for row in draws]).astype(np.float64)


def _percentiles(drawn: Floats) -> tuple[Floats, Floats]:
    """Take the 2.5th and 97.5th percentile of each column, over the resamples that define it."""
    defined = [column[np.isfinite(column)] for column in drawn.T]
    bounds = [np.percentile(c, [2.5, 97.5]) if c.size else np.full(2, math.nan) for c in defined]
    low, high = np.array(bounds, dtype=np.float64).reshape(-1, 2).T
    return low, high
