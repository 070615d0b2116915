"""Where all slides stand, a page at a time: from the index where there is one, else from the whole store."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass

from histgen_lib.catalogue.index import Index, ask
from histgen_lib.catalogue.indexer import look_up
from histgen_lib.catalogue.keys import copies_prefix
from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.states import SlideState
from histgen_lib.client.connection import Connection
from histgen_lib.client.following import Follower, Picture
from histgen_lib.client.sight import StoreSight, settled
from histgen_lib.client.workers import look
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.storage import ObjectStore

UNFINISHED = ("scanned", "bagged")
_CHUNK = 500


@dataclass(frozen=True)
class Wanted:
    """What is to be shown: slides in these states (all if empty), `limit` a page, all of them if None."""

    states: Collection[str] = ()
    limit: int | None = 60
    page: int = 1

    @property
    def offset(self) -> int:
        """How many slides come before the page."""
        return (self.page - 1) * (self.limit or 0)


@dataclass(frozen=True)
class Standing:
    """`picture`: counts of all slides, and services; `slides`: those of the page; `total`: of all pages.

    `behind_s`: how long ago the index was kept last, None where the store itself was read.
    """

    picture: Picture
    slides: Iterator[SlideState]
    total: int
    behind_s: float | None = None


@contextmanager
def standing(
    connection: Connection, wanted: Wanted, *, reading: Callable[[], AbstractContextManager[object]]
) -> Iterator[Standing]:
    """Say where all slides stand; they can be read while the block runs. Raises what the store raises.

    `reading`: what is shown while the whole store is read.
    """
    index = connection.index()
    if index:
        with closing(index):
            if found := ask(index, lambda open_one: _indexed(connection, open_one, wanted)):
                yield found
                return
    with reading():
        read = _read(connection, wanted)
    yield read


def slide_states(connection: Connection, store: ObjectStore, slide_ids: Collection[str]) -> Picture:
    """Look some slides up, in the store itself. Raises what the store raises."""
    run_dir = connection.run_dir
    states = _looked_up(connection, store, slide_ids)
    if states is None:
        states = Overview(store).slides(slide_ids)
    return Picture(tuple(states), tuple(look(run_dir)) if run_dir else ())


def originals_of(store: ObjectStore, name: str) -> list[str]:
    """Name the slides of which files called `name` are copies, other than the slide that has that name.

    Several, where files of one name in different folders are copies of different slides.
    """
    notes = {info.key.removeprefix(copies_prefix(name)): info.key for info in store.list(copies_prefix(name))}
    if not notes:
        return []
    scan = Overview(store).scan_of(name)
    own = {slide.uri for slide in Overview(store).named([scan] if scan else [])}
    return [slide_id for slide_id, key in notes.items() if _noted_uri(store, key) not in own]


def _noted_uri(store: ObjectStore, key: str) -> str:
    """Say where a copy lies; a place that has another slide by now holds no copy any more."""
    try:
        return str(json.loads(store.get(key))["uri"])
    except (InvalidInputError, ValueError, KeyError, TypeError):
        return ""


def _looked_up(
    connection: Connection, store: ObjectStore, slide_ids: Collection[str]
) -> list[SlideState] | None:
    index = connection.index()
    if index is None:
        return None
    with closing(index):
        try:
            return look_up(store, index, slide_ids) if index.fact("whole") else None
        except sqlite3.Error:
            return None


def _indexed(connection: Connection, index: Index, wanted: Wanted) -> Standing | None:
    """Answer from the index; None if it is of no use: nobody makes one whole while nothing runs."""
    whole, run_dir = bool(index.fact("whole")), connection.run_dir
    if not (whole or run_dir):
        return None
    away = "" if run_dir else settled(connection.store(), index)
    counts = Counter(index.counts())
    slides = _page(index, wanted)
    if run_dir and wanted.limit is not None and connection.storage.url.startswith("file:"):
        slides = iter(_fresh(connection.store(), index, list(slides), counts))
    workers = tuple(look(run_dir)) if run_dir else ()
    total = sum(count for state, count in counts.items() if not wanted.states or state in wanted.states)
    behind_s = max(0.0, time.time() - float(index.fact("kept") or 0)) if run_dir else 0.0
    picture = Picture((), workers, totals=counts, away=away, whole=whole)
    return Standing(picture, slides, total, behind_s)


def _page(index: Index, wanted: Wanted) -> Iterator[SlideState]:
    """Read the entries of the page, some at a time."""
    offset, left = wanted.offset, wanted.limit
    while found := index.page(wanted.states, limit=_CHUNK if left is None else left, offset=offset):
        yield from found
        if left is not None:
            return
        offset += len(found)


def _fresh(
    store: ObjectStore, index: Index, slides: list[SlideState], counts: Counter[str]
) -> list[SlideState]:
    """Look up what had not ended, in the store itself; that costs nothing where the store is a folder."""
    unfinished = [slide.slide_id for slide in slides if not slide.ended]
    now: dict[str, SlideState] = {}
    with suppress(TransientError):
        now = {slide.slide_id: slide for slide in look_up(store, index, unfinished) if slide.event}
    for place, slide in enumerate(slides):
        if not slide.ended and slide.slide_id in now:
            slides[place] = now[slide.slide_id]
            counts[slide.state] -= 1
            counts[slides[place].state] += 1
    return slides


def _read(connection: Connection, wanted: Wanted) -> Standing:
    """Read the whole store."""
    picture = Follower(StoreSight(connection.store()), connection.run_dir).look()
    chosen = [slide for slide in picture.slides if not wanted.states or slide.state in wanted.states]
    ordered = _in_order(chosen)
    end = None if wanted.limit is None else wanted.offset + wanted.limit
    return Standing(picture, iter(ordered[wanted.offset : end]), len(chosen))


def _in_order(slides: Sequence[SlideState]) -> list[SlideState]:
    """Sort as the index does: what is unfinished first, then the newest scan."""
    newest = sorted(
        sorted(slides, key=lambda one: one.slide_id), key=lambda one: one.scanned_at, reverse=True
    )
    return sorted(newest, key=lambda one: one.ended)
