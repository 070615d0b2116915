"""Following a stream: polling the index, or the store, so that each slide that ends is reported once.

Nothing that had ended before the first poll is news. Pollers say what they see of the slides; a Follower adds
the workers and decides how often to poll, at a cost that the store does not feel.
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
from histgen_lib.client.api import WorkerState, worker_states
from histgen_lib.client.connection import Connection
from histgen_lib.errors import TransientError
from histgen_lib.storage import ObjectStore

_SHOWN = 60
_GRAIN_S = 1.0
"""How much the time at which an object was written may have been rounded."""
_INDEX_WAIT_S, _INDEX_STEP_S = 15.0, 0.1
"""How long to wait for the index of a running stack, which may just have lost it."""
_POLL_S = 0.5
_SHARE = 0.1
"""The largest share of time spent reading the store."""
_IDLE_S = 15.0
"""The longest pause between two polls; after so long without news the poller's `idle_s` applies, too."""
_WINDOW_S = 600.0
_LEAST_S = 30.0
"""A rate over less time would be chance."""


@dataclass(frozen=True)
class SlideUpdate:
    """What one poll found.

    `slides`: all of them; only the first if there are `totals`, which count all by state. `news`: those that
    ended since the last poll. `whole`: whether all are counted. `away`: the error code of a store that does
    not answer.
    """

    slides: tuple[SlideState, ...]
    news: tuple[SlideState, ...] = ()
    totals: Mapping[str, int] | None = None
    whole: bool = True
    away: str = ""


class SlidePoller(Protocol):
    """Reports the slides at each poll. `idle_s`: seconds between polls while nothing happens."""

    idle_s: float

    def poll(self) -> SlideUpdate:
        """Return the slides and what is new. Raises what the store raises."""
        ...


class StorePoller:
    """Reads the store. `only`: ids of the slides to read; all if None."""

    idle_s = 60.0

    def __init__(self, store: ObjectStore, *, only: Collection[str] | None = None) -> None:
        self._overview, self._only = Overview(store), only
        self._known: Collection[tuple[str, str, str]] | None = None

    def poll(self) -> SlideUpdate:
        """See `SlidePoller`."""
        slides = tuple(self._states())
        ended = {slide.ending: slide for slide in slides if slide.ended}
        known = ended.keys() if self._known is None else self._known
        self._known = set(ended)
        return SlideUpdate(slides, tuple(slide for end, slide in ended.items() if end not in known))

    def _states(self) -> list[SlideState]:
        """Read all slides, or only those of interest: then no dead letters of others are read."""
        if self._only is None:
            return self._overview.slides()
        scans = map(self._overview.scan_of, sorted(self._only))
        return self._overview.named([scan for scan in scans if scan])


class IndexPoller:
    """Reads the index.

    While there is none, the last update stands. An index that was rebuilt reports no end a second time.
    `now`: seconds since 1970.
    """

    idle_s = 2.0

    def __init__(self, connection: Connection, *, now: Callable[[], float] = time.time) -> None:
        self._connection, self._now, self._began = connection, now, now()
        self._last = SlideUpdate((), totals={}, whole=False)
        self._built, self._number = "", 0
        self._reported: dict[tuple[str, str, str], float] = {}

    def poll(self) -> SlideUpdate:
        """See `SlidePoller`."""
        index, update = self._connection.index(), None
        if index:
            with closing(index):
                update = ask(index, self._read)
        self._last = update or replace(self._last, news=(), whole=False)
        return self._last

    def _read(self, index: Index) -> SlideUpdate:
        away = "" if self._connection.run_dir else settled(self._connection.store(), index)
        slides, counts, whole = tuple(index.page(limit=_SHOWN)), index.counts(), bool(index.fact("whole"))
        return SlideUpdate(slides, self._news(index), counts, whole, away)

    def _news(self, index: Index) -> tuple[SlideState, ...]:
        """Return who ended; after a rebuild, by the time of the end and by what was reported before."""
        built, first, now = index.fact("made"), not self._built, self._now()
        if built != self._built:
            self._built, self._number = built, 0
        last = index.last_number()
        ends = index.ends(self._number, last, max(self._began - _GRAIN_S, now - NEWS_S))
        self._number = last
        self._reported = {end: at for end, at in self._reported.items() if at > now - NEWS_S}
        fresh = [end.slide for end in ends if not (end.first and end.slide.ending in self._reported)]
        self._reported |= {slide.ending: now for slide in fresh}
        return () if first else tuple(fresh)


def open_poller(
    connection: Connection,
    pause: Callable[[float], object] = time.sleep,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> SlidePoller:
    """Choose how to poll all slides of a stack: by its index if it has one, else from the store.

    Waits for the index of a running stack; `pause` takes seconds, and ends the wait by returning true.
    """
    if _has_index(connection, pause, clock):
        return IndexPoller(connection)
    return StorePoller(connection.store())


def settled(store: ObjectStore, index: Index) -> str:
    """Bring the index of a stopped stack up to date; return the error code of a store that is unavailable."""
    try:
        settle(store, index)
    except TransientError as error:
        return error.code
    return ""


def _has_index(connection: Connection, pause: Callable[[float], object], clock: Callable[[], float]) -> bool:
    """Return whether there is an index of all slides, or one that a running stack is completing."""
    end = clock() + _INDEX_WAIT_S
    while True:
        running = connection.run_dir is not None
        if index := connection.index():
            with closing(index):
                if (whole := ask(index, lambda one: bool(one.fact("whole")))) is not None:
                    return whole or running
        if not running or clock() > end or pause(_INDEX_STEP_S):
            return False


@dataclass(frozen=True)
class EndedSlide:
    """A slide that ended while we followed. `seconds`: from its scan until we saw the end."""

    slide: SlideState
    seconds: float


@dataclass(frozen=True)
class Snapshot:
    """The stream at one moment. `news`: slides that ended since the last snapshot.

    `away`: the error code of a store that did not answer; the slides are then those of the last poll that
    worked. `totals`: how many slides are in each state, if `slides` are only some of them. `whole`: whether
    all are counted.
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
        """How many slides have not ended, and no worker is at them."""
        if self.totals is not None:
            return max(0, self.counts["scanned"] + self.counts["bagged"] - len(self.busy))
        return sum(not slide.ended and slide.slide_id not in self.busy for slide in self.slides)

    @property
    def busy(self) -> dict[str, WorkerState]:
        """The worker at each slide that is being worked on, by slide id."""
        return {worker.in_flight.slide_id: worker for worker in self.workers if worker.in_flight}


class Follower:
    """Polls slides and workers. `now`: UTC; `clock`: monotonic seconds."""

    def __init__(
        self,
        poller: SlidePoller,
        run_dir: Path | None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._poller, self._run_dir = poller, run_dir
        self._now, self._clock = now, clock
        self._update = SlideUpdate(())
        self._due = self._began = clock()
        self._away = ""
        self._ended_at: list[float] = []
        self._workers: tuple[WorkerState, ...] = ()
        self._active_at = self._polled_at = clock()

    def poll(self) -> Snapshot:
        """Look at the workers, and at the slides if they are due."""
        workers = tuple(worker_states(self._run_dir)) if self._run_dir else ()
        if workers != self._workers or any(worker.in_flight for worker in workers):
            self._workers, self._active_at = workers, self._clock()
        news = self._poll_slides() if self._is_due() else ()
        if news:
            self._active_at = self._clock()
        seen, rate = self._update, self._per_minute()
        return Snapshot(seen.slides, workers, news, rate, self._away or seen.away, seen.totals, seen.whole)

    @property
    def pause_s(self) -> float:
        """Seconds to wait before the next poll: the longer, the longer nothing has happened."""
        return min(_IDLE_S, max(_POLL_S, (self._clock() - self._active_at) / 4))

    def _is_due(self) -> bool:
        now = self._clock()
        idle = self._workers and now - self._active_at > _IDLE_S and not self._away
        return now >= (max(self._due, self._polled_at + self._poller.idle_s) if idle else self._due)

    def _poll_slides(self) -> tuple[EndedSlide, ...]:
        began = self._clock()
        try:
            self._update = self._poller.poll()
            self._away = ""
        except TransientError as error:
            self._away = error.code
            return ()
        finally:
            self._polled_at = self._clock()
            self._due = self._clock() + max(_POLL_S, (self._clock() - began) / _SHARE)
        self._ended_at += [self._clock()] * len(self._update.news)
        return tuple(EndedSlide(slide, self._seconds(slide)) for slide in self._update.news)

    def _seconds(self, slide: SlideState) -> float:
        event = slide.event or (slide.letter and slide.letter.event)
        return max(0.0, (self._now() - event.scanned_at).total_seconds()) if event else 0.0

    def _per_minute(self) -> float:
        """Return how many slides ended a minute, over the last ten minutes or since we began."""
        now = self._clock()
        self._ended_at = [at for at in self._ended_at if at > now - _WINDOW_S]
        seconds = min(now - self._began, _WINDOW_S)
        return 60 * len(self._ended_at) / seconds if seconds >= _LEAST_S else 0.0
