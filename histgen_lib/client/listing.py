"""Listing slides with their states, a page at a time: from the index if there is one, else from the store."""

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
from histgen_lib.client.api import worker_states
from histgen_lib.client.connection import Connection
from histgen_lib.client.following import Follower, Snapshot, StorePoller, settled
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.storage import ObjectStore

UNFINISHED = ("scanned", "bagged")
_CHUNK = 500


@dataclass(frozen=True)
class PageQuery:
    """Which slides to list: those in these states (all if empty), `limit` a page, all if None."""

    states: Collection[str] = ()
    limit: int | None = 60
    page: int = 1

    @property
    def offset(self) -> int:
        """How many slides come before the page."""
        return (self.page - 1) * (self.limit or 0)


@dataclass(frozen=True)
class SlidePage:
    """One page of slides. `snapshot`: the counts of all slides, and the services; `total`: on all pages.

    `behind_s`: seconds since the index was last updated; None if the store itself was read.
    """

    snapshot: Snapshot
    slides: Iterator[SlideState]
    total: int
    behind_s: float | None = None


@contextmanager
def slide_page(
    connection: Connection,
    query: PageQuery,
    *,
    reading: Callable[[], AbstractContextManager[object]],
    now: Callable[[], float] = time.time,
) -> Iterator[SlidePage]:
    """Return a page whose slides can be read while the block runs. Raises what the store raises.

    `reading`: what to show while the whole store is read; `now`: seconds since 1970.
    """
    index = connection.index()
    if index:
        with closing(index):
            if page := ask(index, lambda open_one: _from_index(connection, open_one, query, now)):
                yield page
                return
    with reading():
        page = _from_store(connection, query)
    yield page


def slide_states(connection: Connection, store: ObjectStore, slide_ids: Collection[str]) -> Snapshot:
    """Read the states of some slides from the store itself. Raises what the store raises."""
    run_dir = connection.run_dir
    states = _looked_up(connection, store, slide_ids)
    if states is None:
        states = Overview(store).slides(slide_ids)
    return Snapshot(tuple(states), tuple(worker_states(run_dir)) if run_dir else ())


def originals_of(store: ObjectStore, name: str) -> list[str]:
    """Return the slides of which files called `name` are copies, except the slide that has that name.

    Several, if files of one name in different folders are copies of different slides.
    """
    notes = {info.key.removeprefix(copies_prefix(name)): info.key for info in store.list(copies_prefix(name))}
    if not notes:
        return []
    scan = Overview(store).scan_of(name)
    own = {slide.uri for slide in Overview(store).named([scan] if scan else [])}
    return [slide_id for slide_id, key in notes.items() if _noted_uri(store, key) not in own]


def _noted_uri(store: ObjectStore, key: str) -> str:
    """Return where a copy lies; "" if there is no such note any more, because another slide lies there."""
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


def _from_index(
    connection: Connection, index: Index, query: PageQuery, now: Callable[[], float]
) -> SlidePage | None:
    """Answer from the index; None if it is incomplete and nothing runs that would complete it."""
    whole, run_dir = bool(index.fact("whole")), connection.run_dir
    if not (whole or run_dir):
        return None
    away = "" if run_dir else settled(connection.store(), index)
    counts = Counter(index.counts())
    slides = _page(index, query)
    if run_dir and query.limit is not None and connection.storage.url.startswith("file:"):
        slides = iter(_fresh(connection.store(), index, list(slides), counts))
    workers = tuple(worker_states(run_dir)) if run_dir else ()
    total = sum(count for state, count in counts.items() if not query.states or state in query.states)
    behind_s = max(0.0, now() - float(index.fact("kept") or 0)) if run_dir else 0.0
    snapshot = Snapshot((), workers, totals=counts, away=away, whole=whole)
    return SlidePage(snapshot, slides, total, behind_s)


def _page(index: Index, query: PageQuery) -> Iterator[SlideState]:
    """Read the entries of the page, some at a time."""
    offset, limit = query.offset, query.limit
    while entries := index.page(query.states, limit=_CHUNK if limit is None else limit, offset=offset):
        yield from entries
        if limit is not None:
            return
        offset += len(entries)


def _fresh(
    store: ObjectStore, index: Index, slides: list[SlideState], counts: Counter[str]
) -> list[SlideState]:
    """Read slides that had not ended from the store itself, which is cheap if it is a folder."""
    unfinished = [slide.slide_id for slide in slides if not slide.ended]
    current: dict[str, SlideState] = {}
    with suppress(TransientError):
        current = {slide.slide_id: slide for slide in look_up(store, index, unfinished) if slide.event}
    for place, slide in enumerate(slides):
        if not slide.ended and slide.slide_id in current:
            slides[place] = current[slide.slide_id]
            counts[slide.state] -= 1
            counts[slides[place].state] += 1
    return slides


def _from_store(connection: Connection, query: PageQuery) -> SlidePage:
    """Read the whole store."""
    snapshot = Follower(StorePoller(connection.store()), connection.run_dir).poll()
    chosen = [slide for slide in snapshot.slides if not query.states or slide.state in query.states]
    ordered = _in_order(chosen)
    end = None if query.limit is None else query.offset + query.limit
    return SlidePage(snapshot, iter(ordered[query.offset : end]), len(chosen))


def _in_order(slides: Sequence[SlideState]) -> list[SlideState]:
    """Sort as the index does: unfinished slides first, then the newest scans."""
    newest = sorted(
        sorted(slides, key=lambda one: one.slide_id), key=lambda one: one.scanned_at, reverse=True
    )
    return sorted(newest, key=lambda one: one.ended)
