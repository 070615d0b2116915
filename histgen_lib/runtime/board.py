"""What a worker shows of itself: to /status, /readyz and /healthz, and as gauges.

Written by the worker's thread, read by the server's: every field is replaced whole.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from histgen_lib.errors import HistgenError
from histgen_lib.events import Event
from histgen_lib.telemetry import metrics

LIVE_S = 30.0
"""How old the last turn of the poll loop may be in a worker that is alive."""


@dataclass(frozen=True)
class Flight:
    """The job in hand."""

    slide_id: str
    event_id: str
    scanned_at: datetime
    began_at: float
    attempt: int = 0
    stage: str = ""
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Aside:
    """A record that waits to be tried again while others pass it; `since`, `due_at`: by the board's clock."""

    slide_id: str
    event_id: str
    scanned_at: datetime
    code: str
    tries: int
    since: float
    due_at: float


@dataclass
class Board:
    """One worker. `missing`: what it depends on and does not have now, each with a code or name.

    `aside`: records set aside, by their place in the log. `letters`, `retries`: the codes whose counters it
    shows from the start.
    """

    worker: str
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    phase: str = "starting"
    stopping: bool = False
    turned_at: float = field(default_factory=time.monotonic)
    missing: dict[str, str] = field(default_factory=lambda: {"process": "starting", "broker": "starting"})
    flight: Flight | None = None
    aside: Mapping[str, Aside] = field(default_factory=dict)
    finished: int = 0
    letters: Sequence[str] = ()
    retries: Sequence[str] = ()

    def __post_init__(self) -> None:
        metrics.show_worker(self.worker, letters=self.letters, retries=self.retries)
        metrics.OLDEST_UNFINISHED.labels(self.worker).set_function(self.oldest_s)
        metrics.SET_ASIDE.labels(self.worker).set_function(lambda: len(self.aside))
        metrics.SET_ASIDE_OLDEST.labels(self.worker).set_function(self.aside_s)

    def turn(self) -> None:
        """Note that the poll loop turned."""
        self.turned_at = self.clock()

    def live(self) -> bool:
        """Tell whether the poll loop turned lately."""
        return self.clock() - self.turned_at < LIVE_S

    def has(self, what: str) -> None:
        """Note that a dependency answered."""
        self.missing = {name: code for name, code in self.missing.items() if name != what}

    def lacks(self, what: str, why: HistgenError | str) -> None:
        """Note that a dependency is away."""
        code = why.code if isinstance(why, HistgenError) else why
        self.missing = {**self.missing, what: code}

    def take(self, event: Event) -> None:
        """Note that a job begins."""
        self.flight = Flight(event.key, event.name, event.scanned_at, self.clock())
        self.phase = "working"
        metrics.IN_FLIGHT.labels(self.worker).set(1)

    def progress(self, **values: Any) -> None:
        """Note how far the job in hand is."""
        if self.flight:
            self.flight = replace(self.flight, **values)

    def wait_for(self, code: str) -> None:
        """Note that the job in hand is to be tried again."""
        self.phase = "waiting"
        self.progress(stage=code, done=0, total=0)

    def drop(self) -> None:
        """Note that no job is in hand any more."""
        self.flight = None
        self.phase = "idle"
        metrics.IN_FLIGHT.labels(self.worker).set(0)

    def flight_s(self) -> float:
        """Seconds since the scan of the slide in hand."""
        return self._since(self.flight)

    def oldest_s(self) -> float:
        """Seconds since the first scan of the slides in hand and set aside."""
        return max(map(self._since, (self.flight, *self.aside.values())))

    def aside_s(self) -> float:
        """Seconds since the first failure of the record that has been waiting for longest."""
        return max((self.clock() - record.since for record in self.aside.values()), default=0.0)

    def _since(self, slide: Flight | Aside | None) -> float:
        return max(0.0, (self.now() - slide.scanned_at).total_seconds()) if slide else 0.0

    def status(self) -> dict[str, Any]:
        """Return what /status shows."""
        flight = self.flight
        shown = flight and {
            **{name: getattr(flight, name) for name in _SHOWN},
            "seconds": round(self.clock() - flight.began_at, 3),
        }
        return {
            "worker": self.worker,
            "phase": "stopping" if self.stopping else self.phase,
            "missing": self.missing,
            "in_flight": shown,
            "set_aside": self._told_aside(),
            "jobs_done": self.finished,
        }

    def _told_aside(self) -> dict[str, Any]:
        """Return how many records are set aside, and the first of them that are due."""
        records, now = sorted(self.aside.values(), key=lambda record: record.due_at), self.clock()
        return {
            "count": len(records),
            "codes": Counter(record.code for record in records),
            "first": [
                {
                    **{name: getattr(record, name) for name in _SHOWN_ASIDE},
                    "seconds": round(now - record.since, 3),
                    "due_s": round(max(0.0, record.due_at - now), 3),
                }
                for record in records[:_FIRST]
            ],
        }


_FIRST, _SHOWN_ASIDE = 20, ("slide_id", "event_id", "code", "tries")
_SHOWN = ("slide_id", "event_id", "attempt", "stage", "done", "total")
