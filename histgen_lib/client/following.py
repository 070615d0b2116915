"""Following a stream: poll the index or the store, and report each slide that ends once, at little cost.

Nothing that ended before the first poll is news.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from histgen_lib.catalogue.index import NEWS_S, Index, ask
from histgen_lib.catalogue.indexer import settle
from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.states import SlideState
from histgen_lib.client.api import WorkerState, look
from histgen_lib.client.connection import Connection
from histgen_lib.errors import TransientError
from histgen_lib.storage import ObjectStore

_SHOWN = 60
_GRAIN_S = 1.0
"""What the time at which an object was written may have been rounded by."""
_PATIENCE_S, _STEP_S = 15.0, 0.1
"""How long a running stack may take to have an index: it may just have lost it."""


@dataclass(frozen=True)
class SlideUpdate:
    """`slides`: all of them; with `totals`, which count all by state, only the first. `news`: who ended.

    `whole`: whether all are counted. `away`: the code of a store that does not answer.
    """

    slides: tuple[SlideState, ...]
    news: tuple[SlideState, ...] = ()
    totals: Mapping[str, int] | None = None
    whole: bool = True
    away: str = ""


class SlidePoller(Protocol):
    """Looks again and again. `still_s`: how seldom is enough where nobody does anything."""

    still_s: float

    def look(self) -> SlideUpdate:
        """Look once. Raises what the store raises."""
        ...


class StorePoller:
    """Reads the store. `only`: ids of the slides to look at; all if None."""

    still_s = 60.0

    def __init__(self, store: ObjectStore, *, only: Collection[str] | None = None) -> None:
        self._overview, self._only = Overview(store), only
        self._known: Collection[tuple[str, str, str]] | None = None

    def look(self) -> SlideUpdate:
        """See `SlidePoller`."""
        slides = tuple(self._states())
        ended = {slide.ending: slide for slide in slides if slide.ended}
        known = ended.keys() if self._known is None else self._known
        self._known = set(ended)
        return SlideUpdate(slides, tuple(slide for end, slide in ended.items() if end not in known))

    def _states(self) -> list[SlideState]:
        """Look at all slides, or at those alone that are wanted: then no letters of others are read."""
        if self._only is None:
            return self._overview.slides()
        scans = map(self._overview.scan_of, sorted(self._only))
        return self._overview.named([scan for scan in scans if scan])


class IndexPoller:
    """Reads the index. While it is away, the last look holds; one that was made anew tells no end again.

    `now`: seconds since 1970.
    """

    still_s = 2.0

    def __init__(self, connection: Connection, *, now: Callable[[], float] = time.time) -> None:
        self._connection, self._now, self._began = connection, now, now()
        self._seen = SlideUpdate((), totals={}, whole=False)
        self._made, self._number = "", 0
        self._told: dict[tuple[str, str, str], float] = {}

    def look(self) -> SlideUpdate:
        """See `SlidePoller`."""
        index, found = self._connection.index(), None
        if index:
            with closing(index):
                found = ask(index, self._look)
        self._seen = found or replace(self._seen, news=(), whole=False)
        return self._seen

    def _look(self, index: Index) -> SlideUpdate:
        away = "" if self._connection.run_dir else settled(self._connection.store(), index)
        slides, counts, whole = tuple(index.page(limit=_SHOWN)), index.counts(), bool(index.fact("whole"))
        return SlideUpdate(slides, self._news(index), counts, whole, away)

    def _news(self, index: Index) -> tuple[SlideState, ...]:
        """Return who ended; of an index that was made anew, by the time of that and by what was told."""
        made, first, now = index.fact("made"), not self._made, self._now()
        if made != self._made:
            self._made, self._number = made, 0
        last = index.last_number()
        found = index.ends(self._number, last, max(self._began - _GRAIN_S, now - NEWS_S))
        self._number = last
        self._told = {end: told_at for end, told_at in self._told.items() if told_at > now - NEWS_S}
        fresh = [end.slide for end in found if not (end.first and end.slide.ending in self._told)]
        self._told |= {slide.ending: now for slide in fresh}
        return () if first else tuple(fresh)


def open_poller(connection: Connection, pause: Callable[[float], object] = time.sleep) -> SlidePoller:
    """Choose how to look at all slides of a stack; soon, if `pause`, which takes seconds, returns true."""
    return IndexPoller(connection) if _is_kept(connection, pause) else StorePoller(connection.store())


def settled(store: ObjectStore, index: Index) -> str:
    """Settle what a stack that ended has left; return the code of a store that is away."""
    try:
        settle(store, index)
    except TransientError as error:
        return error.code
    return ""


def _is_kept(connection: Connection, pause: Callable[[float], object]) -> bool:
    """Tell whether there is an index of all slides, or one that a running stack makes to be one."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        running = connection.run_dir is not None
        if index := connection.index():
            with closing(index):
                if (whole := ask(index, lambda one: bool(one.fact("whole")))) is not None:
                    return whole or running
        if not running or time.monotonic() > end or pause(_STEP_S):
            return False


_LOOK_S = 0.5
_SHARE = 0.1
"""The most of the time that is spent looking into the store."""
_CALM_S = 15.0
"""The longest pause between two looks; after so long without news they are as seldom as is enough then."""
_WINDOW_S = 600.0
_LEAST_S = 30.0
"""Before that a rate would be chance."""


@dataclass(frozen=True)
class EndedSlide:
    """A slide that ended while we looked. `seconds`: from its scan to our seeing the end."""

    slide: SlideState
    seconds: float


@dataclass(frozen=True)
class Snapshot:
    """One look. `away`: the store did not answer, the slides are those of the last look that worked.

    `totals`: how many slides are in each state, where `slides` are but some of them. `whole`: whether all are
    counted.
    """

    slides: tuple[SlideState, ...]
    workers: tuple[WorkerState, ...]
    news: tuple[EndedSlide, ...] = ()
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
        sight: SlidePoller,
        run_dir: Path | None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sight, self._run_dir = sight, run_dir
        self._now, self._clock = now, clock
        self._seen = SlideUpdate(())
        self._due = self._began = clock()
        self._away = ""
        self._ended_at: list[float] = []
        self._workers: tuple[WorkerState, ...] = ()
        self._stirred_at = self._looked_at = clock()

    def look(self) -> Snapshot:
        """Look at the workers, and at the slides if it is time for that."""
        workers = tuple(look(self._run_dir)) if self._run_dir else ()
        if workers != self._workers or any(worker.in_flight for worker in workers):
            self._workers, self._stirred_at = workers, self._clock()
        news = self._look_at_slides() if self._is_due() else ()
        if news:
            self._stirred_at = self._clock()
        seen, rate = self._seen, self._per_minute()
        return Snapshot(seen.slides, workers, news, rate, self._away or seen.away, seen.totals, seen.whole)

    @property
    def pause_s(self) -> float:
        """How long to wait before the next look: the longer, the longer nothing has happened."""
        return min(_CALM_S, max(_LOOK_S, (self._clock() - self._stirred_at) / 4))

    def _is_due(self) -> bool:
        now = self._clock()
        still = self._workers and now - self._stirred_at > _CALM_S and not self._away
        return now >= (max(self._due, self._looked_at + self._sight.still_s) if still else self._due)

    def _look_at_slides(self) -> tuple[EndedSlide, ...]:
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
        return tuple(EndedSlide(slide, self._seconds(slide)) for slide in self._seen.news)

    def _seconds(self, slide: SlideState) -> float:
        event = slide.event or (slide.letter and slide.letter.event)
        return max(0.0, (self._now() - event.scanned_at).total_seconds()) if event else 0.0

    def _per_minute(self) -> float:
        """Slides that ended a minute, over the last ten minutes or since we began to look."""
        now = self._clock()
        self._ended_at = [at for at in self._ended_at if at > now - _WINDOW_S]
        seconds = min(now - self._began, _WINDOW_S)
        return 60 * len(self._ended_at) / seconds if seconds >= _LEAST_S else 0.0
