"""What is seen of all slides at a look: through the index where one is kept, else in the store itself.

Either way each end is news once, and none that happened before the first look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

from histgen_lib.catalogue.index import NEWS_S, Index, ask
from histgen_lib.catalogue.indexer import settle
from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.states import SlideState
from histgen_lib.client.connection import Connection
from histgen_lib.errors import TransientError
from histgen_lib.storage import ObjectStore

_SHOWN = 60
_GRAIN_S = 1.0
"""What the time at which an object was written may have been rounded by."""
_PATIENCE_S, _STEP_S = 15.0, 0.1
"""How long a running stack may take to have an index: it may just have lost it."""


@dataclass(frozen=True)
class Seen:
    """`slides`: all of them; with `totals`, which count all by state, only the first. `news`: who ended.

    `whole`: whether all are counted. `away`: the code of a store that does not answer.
    """

    slides: tuple[SlideState, ...]
    news: tuple[SlideState, ...] = ()
    totals: Mapping[str, int] | None = None
    whole: bool = True
    away: str = ""


class Sight(Protocol):
    """Looks again and again. `still_s`: how seldom is enough where nobody does anything."""

    still_s: float

    def look(self) -> Seen:
        """Look once. Raises what the store raises."""
        ...


class StoreSight:
    """Reads the store. `only`: ids of the slides to look at; all if None."""

    still_s = 60.0

    def __init__(self, store: ObjectStore, *, only: Collection[str] | None = None) -> None:
        self._overview, self._only = Overview(store), only
        self._known: Collection[tuple[str, str, str]] | None = None

    def look(self) -> Seen:
        """See `Sight`."""
        slides = tuple(self._states())
        ended = {slide.ending: slide for slide in slides if slide.ended}
        known = ended.keys() if self._known is None else self._known
        self._known = set(ended)
        return Seen(slides, tuple(slide for end, slide in ended.items() if end not in known))

    def _states(self) -> list[SlideState]:
        """Look at all slides, or at those alone that are wanted: then no letters of others are read."""
        if self._only is None:
            return self._overview.slides()
        scans = map(self._overview.scan_of, sorted(self._only))
        return self._overview.named([scan for scan in scans if scan])


class IndexSight:
    """Reads the index. While it is away, the last look holds; one that was made anew tells no end again.

    `now`: seconds since 1970.
    """

    still_s = 2.0

    def __init__(self, connection: Connection, *, now: Callable[[], float] = time.time) -> None:
        self._connection, self._now, self._began = connection, now, now()
        self._seen = Seen((), totals={}, whole=False)
        self._made, self._number = "", 0
        self._told: dict[tuple[str, str, str], float] = {}

    def look(self) -> Seen:
        """See `Sight`."""
        index, found = self._connection.index(), None
        if index:
            with closing(index):
                found = ask(index, self._look)
        self._seen = found or replace(self._seen, news=(), whole=False)
        return self._seen

    def _look(self, index: Index) -> Seen:
        away = "" if self._connection.run_dir else settled(self._connection.store(), index)
        slides, counts, whole = tuple(index.page(limit=_SHOWN)), index.counts(), bool(index.fact("whole"))
        return Seen(slides, self._news(index), counts, whole, away)

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


def sight_of(connection: Connection, pause: Callable[[float], object] = time.sleep) -> Sight:
    """Choose how to look at all slides of a stack; soon, if `pause`, which takes seconds, returns true."""
    return IndexSight(connection) if _is_kept(connection, pause) else StoreSight(connection.store())


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
