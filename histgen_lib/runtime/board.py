"""What a service shows of itself on /status, /readyz and /healthz, and as gauges.

The service's threads write it, the HTTP server's thread reads it: every field is replaced as a whole.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from histgen_lib.errors import HistgenError
from histgen_lib.events import Event
from histgen_lib.telemetry import metrics

LIVE_S = 30.0
"""A loop that has not turned for so long is stuck, and its process is not live."""

_FIRST = 20
_SHOWN = ("slide_id", "event_id", "attempt", "stage", "done", "total")
_SHOWN_ASIDE = ("slide_id", "event_id", "code", "tries")


@dataclass(frozen=True)
class Flight:
    """The job in hand. `began_at`: by the board's clock."""

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
    """A record set aside to be tried again, while others pass it. `since`, `due_at`: by the board's clock."""

    slide_id: str
    event_id: str
    scanned_at: datetime
    code: str
    tries: int
    since: float
    due_at: float


@dataclass
class Board:
    """The state of one service. `worker`: its name, also in metrics.

    `missing`: dependencies that are not available, each with an error code or a word. `aside`: records set
    aside, by their position in the log. `letters`, `retries`: error codes whose counters exist from the
    start; `stages`: those of its jobs, likewise. `clock`: monotonic seconds; `now`: UTC.
    """

    worker: str
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    phase: str = "starting"
    stopping: bool = False
    missing: dict[str, str] = field(default_factory=lambda: {"process": "starting", "broker": "starting"})
    flight: Flight | None = None
    aside: Mapping[str, Aside] = field(default_factory=dict)
    finished: int = 0
    letters: Sequence[str] = ()
    retries: Sequence[str] = ()
    stages: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._turned_at = {"": self.clock()}
        metrics.show_worker(self.worker, letters=self.letters, retries=self.retries, stages=self.stages)
        for what in self.missing:
            metrics.DEPENDENCY_UP.labels(self.worker, what).set(0)
        metrics.OLDEST_UNFINISHED.labels(self.worker).set_function(self.oldest_s)
        metrics.SET_ASIDE.labels(self.worker).set_function(lambda: len(self.aside))
        metrics.SET_ASIDE_OLDEST.labels(self.worker).set_function(self.aside_s)

    def turn(self, loop: str = "") -> None:
        """Note that a loop turned: the main one, or the one called `loop`."""
        self._turned_at[loop] = self.clock()

    def live(self) -> bool:
        """Return whether every loop turned lately."""
        return self.clock() - min(list(self._turned_at.values())) < LIVE_S

    def has(self, what: str) -> None:
        """Note that a dependency is available."""
        self.missing = {name: code for name, code in self.missing.items() if name != what}
        metrics.DEPENDENCY_UP.labels(self.worker, what).set(1)

    def lacks(self, what: str, why: HistgenError | str) -> None:
        """Note that a dependency is not available."""
        code = why.code if isinstance(why, HistgenError) else why
        self.missing = {**self.missing, what: code}
        metrics.DEPENDENCY_UP.labels(self.worker, what).set(0)

    def take(self, event: Event) -> None:
        """Note that a job begins."""
        self.flight = Flight(event.key, event.name, event.scanned_at, self.clock())
        self.phase = "working"
        metrics.IN_FLIGHT.labels(self.worker).set(1)

    def begin_attempt(self, number: int) -> None:
        """Note which attempt at the job in hand begins, counted from 1."""
        if self.flight:
            self.flight = replace(self.flight, attempt=number)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Note how far the job in hand has come."""
        if self.flight:
            self.flight = replace(self.flight, stage=stage, done=done, total=total)

    def wait_for(self, code: str) -> None:
        """Note that the job in hand waits to be tried again."""
        self.phase = "waiting"
        self.progress(code, 0, 0)

    def drop(self) -> None:
        """Note that no job is in hand."""
        self.flight = None
        self.phase = "idle"
        metrics.IN_FLIGHT.labels(self.worker).set(0)

    def flight_s(self) -> float:
        """Return the seconds since the scan of the slide in hand."""
        return self._since_scan(self.flight)

    def oldest_s(self) -> float:
        """Return the seconds since the earliest scan among the slides in hand and set aside."""
        return max(map(self._since_scan, (self.flight, *self.aside.values())))

    def aside_s(self) -> float:
        """Return the seconds since the first failure of the record that has been set aside for longest."""
        return max((self.clock() - record.since for record in self.aside.values()), default=0.0)

    def _since_scan(self, slide: Flight | Aside | None) -> float:
        return max(0.0, (self.now() - slide.scanned_at).total_seconds()) if slide else 0.0

    def status(self) -> dict[str, object]:
        """Return what /status shows."""
        flight = self.flight
        in_flight = flight and {
            **{name: getattr(flight, name) for name in _SHOWN},
            "seconds": round(self.clock() - flight.began_at, 3),
        }
        return {
            "worker": self.worker,
            "phase": "stopping" if self.stopping else self.phase,
            "missing": self.missing,
            "in_flight": in_flight,
            "set_aside": self._aside_status(),
            "jobs_done": self.finished,
        }

    def _aside_status(self) -> dict[str, object]:
        """Return how many records are set aside, and those of them that are due first."""
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


@dataclass
class WebBoard(Board):
    """The state of a service that answers requests. `requests`: how many are in hand."""

    missing: dict[str, str] = field(default_factory=lambda: {"store": "starting"})
    requests: int = 0

    def hold(self, requests: int) -> None:
        """Note how many requests are in hand."""
        self.requests = requests
        metrics.IN_FLIGHT.labels(self.worker).set(requests)

    def status(self) -> dict[str, object]:
        """Return what /status shows."""
        return super().status() | {"requests": self.requests}
