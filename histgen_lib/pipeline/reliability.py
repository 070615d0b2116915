"""How far to trust a model, as measured on slides with a known truth and stored in its config.json.

`Calibration` turns the decoder's token log-probabilities into the share of such sentences that were right on
held-out slides: training fits it and writes `to_config()` under "calibration". `EvidenceFigures` counts how
often the strongest tile of a line met the lesion that the line states: `histgen model measure` writes them
under "evidence". The pipeline reads both back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import FatalError
from histgen_lib.reports.record import EvidenceCheck
from histgen_lib.text.synoptic import parse_report

Statistic = Literal["sum", "mean", "min"]
Method = Literal["none", "temperature", "isotonic"]

LEAST_SHARE = 0.5
"""Tiles are shown as evidence if at least this share of strongest tiles showed what the line states."""

_Z95 = 1.959964  # two-sided 95 % of the normal distribution


def raw_confidence(logprobs: NDArray[np.floating], statistic: Statistic = "sum") -> float:
    """Return the decoder's own confidence 0..1 in a sentence from its tokens' natural log-probabilities [T].

    "sum": the probability of the whole sentence given all text before it; "mean": the geometric mean over its
    tokens; "min": the least probable token. A sentence without tokens gives 0.
    """
    values = np.asarray(logprobs, dtype=np.float64)
    if values.size == 0:
        return 0.0
    reduced = {"sum": values.sum(), "mean": values.mean(), "min": values.min()}[statistic]
    return float(np.exp(min(float(reduced), 0.0)))


@dataclass(frozen=True)
class Calibration:
    """A monotone map from raw to calibrated confidence.

    "temperature" divides the log-odds of the raw confidence by `temperature`;
    "isotonic" interpolates linearly in the table `x` → `y` (both ascending, 0..1).
    """

    method: Method = "none"
    statistic: Statistic = "sum"
    temperature: float = 1.0
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    @property
    def known(self) -> bool:
        """Whether the model was calibrated: the raw confidences of an imported model mean nothing."""
        return self.method != "none"

    def confidence(self, logprobs: NDArray[np.floating]) -> float:
        """Return the calibrated confidence 0..1 of a sentence with these token log-probabilities [T]."""
        return self.apply(raw_confidence(logprobs, self.statistic))

    def apply(self, raw: float) -> float:
        """Return the calibrated confidence for a raw one."""
        if self.method == "isotonic":
            return float(np.interp(raw, self.x, self.y))
        if self.method == "temperature":
            clipped = min(max(raw, 1e-9), 1 - 1e-9)
            return float(1 / (1 + ((1 - clipped) / clipped) ** (1 / self.temperature)))
        return raw

    @classmethod
    def fit_isotonic(
        cls, raw: Sequence[float], right: Sequence[bool], *, statistic: Statistic = "sum", knots: int = 24
    ) -> Self:
        """Fit P(right | raw) on held-out sentences by pooling adjacent violators.

        Each step holds at least 1/`knots` of the sentences. Each pooled step counts one imaginary right and
        one imaginary wrong sentence more (Laplace), so that a small validation set never yields a confidence
        of 0 or 1.
        """
        order = np.argsort(raw, kind="stable")
        x = np.asarray(raw, dtype=np.float64)[order]
        hits = np.asarray(right, dtype=np.float64)[order]
        bins = _pool(x, hits, max(1, len(x) // knots))
        return cls("isotonic", statistic, x=tuple(b[0] for b in bins), y=tuple(b[1] for b in bins))

    @classmethod
    def fit_temperature(
        cls, raw: Sequence[float], right: Sequence[bool], *, statistic: Statistic = "sum"
    ) -> Self:
        """Find the temperature (0.2..10) with the lowest negative log-likelihood on held-out sentences."""
        hits = np.asarray(right, dtype=bool)
        grid = np.geomspace(0.2, 10, 200)
        losses = [
            _loss(np.asarray([cls("temperature", statistic, float(t)).apply(r) for r in raw]), hits)
            for t in grid
        ]
        return cls("temperature", statistic, float(round(grid[int(np.argmin(losses))], 4)))

    def to_config(self) -> dict[str, Any]:
        """Return the JSON for config.json's "calibration"."""
        config: dict[str, Any] = {"method": self.method, "statistic": self.statistic}
        if self.method == "temperature":
            config["temperature"] = self.temperature
        if self.method == "isotonic":
            config |= {"x": list(self.x), "y": list(self.y)}
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read config.json's "calibration"; empty means uncalibrated. FatalError("model-config-invalid")."""
        calibration = cls(
            method=config.get("method", "none"),
            statistic=config.get("statistic", "sum"),
            temperature=float(config.get("temperature", 1.0)),
            x=tuple(float(v) for v in config.get("x", ())),
            y=tuple(float(v) for v in config.get("y", ())),
        )
        calibration._check()
        return calibration

    def _check(self) -> None:
        table_ok = (
            len(self.x) == len(self.y) and list(self.x) == sorted(self.x) and list(self.y) == sorted(self.y)
        )
        known = self.method in ("none", "temperature", "isotonic") and self.statistic in (
            "sum",
            "mean",
            "min",
        )
        if not known or not table_ok or self.temperature <= 0 or (self.method == "isotonic" and not self.x):
            raise FatalError(
                "model-config-invalid",
                'The "calibration" in the model\'s config.json cannot be used.',
                hint="Fetch the model again, or retrain it.",
            )


def _pool(x: NDArray[np.float64], hits: NDArray[np.float64], least: int) -> list[tuple[float, float]]:
    """Fit steps over sorted `x`, each of at least `least` samples: (mean x, smoothed share)."""
    blocks: list[list[float]] = []  # [count, sum of x, hits]
    for start in range(0, len(x), least):
        part = slice(start, start + least)
        blocks.append([float(len(x[part])), float(x[part].sum()), float(hits[part].sum())])
        while len(blocks) > 1 and blocks[-2][2] / blocks[-2][0] >= blocks[-1][2] / blocks[-1][0]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    shares = np.maximum.accumulate([(h + 1) / (n + 2) for n, _, h in blocks])
    return [(round(s / n, 6), round(float(y), 6)) for (n, s, _), y in zip(blocks, shares, strict=True)]


def _loss(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    likelihood = np.where(right, confidence, 1 - confidence)
    return float(-np.log(np.clip(likelihood, 1e-12, 1)).mean())


@dataclass(frozen=True)
class EvidenceFigures:
    """`fields`: measured lines and hits of each field, (lines, hits); empty if nothing was measured.

    A field's tiles are trusted if the lower end of its 95 % interval reaches `threshold`, so that luck on a
    few slides is not enough.
    """

    fields: Mapping[str, tuple[int, int]]
    threshold: float = LEAST_SHARE

    def check(self, line: str) -> EvidenceCheck | None:
        """Return what was measured of lines like this one; None if nothing was."""
        field = next((name for name in parse_report(line) if name in self.fields), None)
        return None if field is None else self.check_field(field)

    def check_field(self, field: str) -> EvidenceCheck:
        """Return what was measured of one of `fields`."""
        lines, hits = self.fields[field]
        low = round(wilson_low(hits, lines), 4)
        return EvidenceCheck(
            field=field,
            lines=lines,
            hits=hits,
            low=low,
            threshold=self.threshold,
            reliable=low >= self.threshold,
        )

    def to_config(self) -> dict[str, Any]:
        """Return the JSON for config.json's "evidence"."""
        fields = {name: {"lines": lines, "hits": hits} for name, (lines, hits) in self.fields.items()}
        return {"threshold": self.threshold, "fields": fields}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read config.json's "evidence"; empty means not measured. FatalError("model-config-invalid")."""
        try:
            fields = {
                str(name): (int(counts["lines"]), int(counts["hits"]))
                for name, counts in dict(config.get("fields", {})).items()
            }
            figures = cls(fields, float(config.get("threshold", LEAST_SHARE)))
            sound = 0 <= figures.threshold <= 1 and all(
                0 <= hits <= lines > 0 for lines, hits in fields.values()
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise FatalError(
                "model-config-invalid",
                'The "evidence" in the model\'s config.json cannot be used.',
                hint="Measure it again with `histgen model measure`, or fetch the model again.",
            )
        return figures


def wilson_low(hits: int, lines: int) -> float:
    """Return the lower end, 0..1, of Wilson's 95 % interval of the share hits / lines (more than 0)."""
    share, z2 = hits / lines, _Z95**2
    middle = share + z2 / (2 * lines)
    spread = _Z95 * math.sqrt(share * (1 - share) / lines + z2 / (4 * lines**2))
    return max(0.0, (middle - spread) / (1 + z2 / lines))
