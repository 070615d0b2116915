"""What a simulation found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """The stream at one moment; `waiting` and `ready` (pods) by service, in the services' order."""

    at_s: float
    waiting: tuple[int, ...]
    ready: tuple[int, ...]


@dataclass(frozen=True)
class StationResult:
    """One service's day; times by slide, NaN for what never happened. `began_s` is the last attempt's."""

    arrived_s: Seconds
    began_s: Seconds
    done_s: Seconds
    attempts: int
    redone: int
    busy_hours: float
    pod_hours: float

    @property
    def waits_s(self) -> Seconds:
        """Seconds that each record waited for the attempt that ended it."""
        waits = self.began_s - self.arrived_s
        return waits[np.isfinite(waits)]

    @property
    def utilisation(self) -> float:
        """The share of their time in which the pods had a record in hand."""
        return self.busy_hours / self.pod_hours if self.pod_hours else 0.0


@dataclass(frozen=True)
class Result:
    """A day. `scan_to_draft_s`: by slide, NaN where no draft came of it. `ended_at_s`: of the last slide."""

    slides: int
    drafts: int
    letters: int
    ended_at_s: float
    scan_to_draft_s: Seconds
    arrivals_s: Seconds
    stations: Mapping[str, StationResult]
    gpu_hours: float
    gpu_busy_hours: float
    samples: Sequence[Sample]
    events: int
    took_s: float

    @property
    def unfinished(self) -> int:
        """Slides that are neither drafted nor given up."""
        return self.slides - self.drafts - self.letters

    @property
    def per_hour(self) -> float:
        """Slides drafted in an hour, from the first arrival until the last end."""
        span_s = self.ended_at_s - float(self.arrivals_s[0])
        return 3600 * self.drafts / span_s if span_s > 0 else 0.0

    def draft_s(self, percentile: float) -> float:
        """Return a percentile (0 to 100) of the seconds from scan to draft."""
        drafted = self.scan_to_draft_s[np.isfinite(self.scan_to_draft_s)]
        return float(np.percentile(drafted, percentile)) if len(drafted) else float("nan")

    @property
    def most_waiting(self) -> int:
        """The most records that waited at a time, in all topics, as sampled every minute."""
        return max(sum(sample.waiting) for sample in self.samples)
