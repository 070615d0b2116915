"""Following a stream: look again and again, and tell what is new, at a cost that the store does not feel."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from histgen_lib.catalogue.states import SlideState
from histgen_lib.client.sight import Seen, Sight
from histgen_lib.client.workers import WorkerState, look
from histgen_lib.errors import TransientError

_LOOK_S = 0.5
_SHARE = 0.1
"""The most of the time that is spent looking into the store."""
_CALM_S = 15.0
"""The longest pause between two looks; after so long without news they are as seldom as is enough then."""
_WINDOW_S = 600.0
_LEAST_S = 30.0
"""Before that a rate would be chance."""


@dataclass(frozen=True)
class Ended:
    """A slide that ended while we looked. `seconds`: from its scan to our seeing the end."""

    slide: SlideState
    seconds: float


@dataclass(frozen=True)
class Picture:
    """One look. `away`: the store did not answer, the slides are those of the last look that worked.

    `totals`: how many slides are in each state, where `slides` are but some of them. `whole`: whether all are
    counted.
    """

    slides: tuple[SlideState, ...]
    workers: tuple[WorkerState, ...]
    news: tuple[Ended, ...] = ()
    per_minute: float = 0.0
    away: str = ""
    totals: Mapping[str, int] | None = None
    whole: bool = True

    @property
    def counts(self) -> Counter[str]:
        """How many slides are in each state."""
        if self.totals is not None:
            return Counter(self.totals)
        return Counter(slide.state for slide in self.slides)

    @property
    def waiting(self) -> int:
        """How many slides have not ended, and are in nobody's hand."""
        if self.totals is not None:
            return max(0, self.counts["scanned"] + self.counts["bagged"] - len(self.busy))
        return sum(not slide.ended and slide.slide_id not in self.busy for slide in self.slides)

    @property
    def busy(self) -> dict[str, WorkerState]:
        """The worker that has a slide in hand, by slide id."""
        return {worker.in_flight.slide_id: worker for worker in self.workers if worker.in_flight}


class Follower:
    """Looks; the first look tells nothing as new. `now`: UTC; `clock`: monotonic seconds."""

    def __init__(
        self,
        sight: Sight,
        run_dir: Path | None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sight, self._run_dir = sight, run_dir
        self._now, self._clock = now, clock
        self._seen = Seen(())
        self._due = self._began = clock()
        self._away = ""
        self._ended_at: list[float] = []
        self._workers: tuple[WorkerState, ...] = ()
        self._stirred_at = self._looked_at = clock()

    def look(self) -> Picture:
        """Look at the workers, and at the slides if it is time for that."""
        workers = tuple(look(self._run_dir)) if self._run_dir else ()
        if workers != self._workers or any(worker.in_flight for worker in workers):
            self._workers, self._stirred_at = workers, self._clock()
        news = self._look_at_slides() if self._is_due() else ()
        if news:
            self._stirred_at = self._clock()
        seen, rate = self._seen, self._per_minute()
        return Picture(seen.slides, workers, news, rate, self._away or seen.away, seen.totals, seen.whole)

    @property
    def pause_s(self) -> float:
        """How long to wait before the next look: the longer, the longer nothing has happened."""
        return min(_CALM_S, max(_LOOK_S, (self._clock() - self._stirred_at) / 4))

    def _is_due(self) -> bool:
        now = self._clock()
        still = self._workers and now - self._stirred_at > _CALM_S and not self._away
        return now >= (max(self._due, self._looked_at + self._sight.still_s) if still else self._due)

    def _look_at_slides(self) -> tuple[Ended, ...]:
        began = self._clock()
        try:
            self._seen = self._sight.look()
            self._away = ""
        except TransientError as error:
            self._away = error.code
            return ()
        finally:
            self._looked_at = self._clock()
            self._due = self._clock() + max(_LOOK_S, (self._clock() - began) / _SHARE)
        self._ended_at += [self._clock()] * len(self._seen.news)
        return tuple(Ended(slide, self._seconds(slide)) for slide in self._seen.news)

    def _seconds(self, slide: SlideState) -> float:
        event = slide.event or (slide.letter and slide.letter.event)
        return max(0.0, (self._now() - event.scanned_at).total_seconds()) if event else 0.0

    def _per_minute(self) -> float:
        """Slides that ended a minute, over the last ten minutes or since we began to look."""
        now = self._clock()
        self._ended_at = [at for at in self._ended_at if at > now - _WINDOW_S]
        seconds = min(now - self._began, _WINDOW_S)
        return 60 * len(self._ended_at) / seconds if seconds >= _LEAST_S else 0.0
