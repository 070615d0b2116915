"""The whole index in memory, kept up to date: for a process that does nothing but search."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from histgen_lib.errors import HistgenError
from histgen_lib.retrieval._lance_errors import unusable
from histgen_lib.retrieval._lance_link import Link
from histgen_lib.retrieval._lance_reader import Reader
from histgen_lib.retrieval._lance_rows import among, newest, schema
from histgen_lib.retrieval._lance_versions import Version
from histgen_lib.retrieval._port import CaseEntry, Hit, IndexState, Query
from histgen_lib.retrieval._shard import Shard, View
from histgen_lib.retrieval._two_stages import search

_POLL_S = 1.0
"""How often the storage is asked whether something is new."""
_SHARE = 4
"""Looking for what is new takes at most one such part of the time."""

_IN_ONE_GO = 500
_AFRESH = 0.25
"""If such a part of the entries is new, or so many slots are empty, all are read afresh."""

Mark = dict[str, Any]


@dataclass
class _Held:
    """What is in memory: entries by model, and which table, at which of LanceDB's versions, they are from."""

    seen: tuple[str, int] = ("", 0)
    shards: dict[str, Shard] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)
    state: IndexState = field(default_factory=lambda: IndexState(0, "", 0, 0, 0, 0, ()))


class Resident:
    """Answers from memory; a thread looks for what is new. `clock`: monotonic seconds."""

    def __init__(self, link: Link, reader: Reader, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._link, self._reader, self._clock = link, reader, clock
        self._held = _Held()
        self._refreshing = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._fresh_at = float("-inf")

    def find(self, slide_id: str) -> CaseEntry | None:
        """Return the entry of a slide."""
        for view in self._ready().views.values():
            if (slot := view.slots.get(slide_id)) is not None:
                return view.entry(slot)
        return None

    def search(self, query: Query) -> list[Hit]:
        """Return the best cases."""
        view = self._ready().views.get(query.model)
        return search(view, query) if view is not None else []

    def state(self) -> IndexState:
        """Return what the index held when something last changed."""
        return self._ready().state

    def behind_s(self) -> float:
        """Return how long ago what is held was compared with the storage; 0 before it is read."""
        return max(0.0, self._clock() - self._fresh_at) if self._fresh_at > float("-inf") else 0.0

    def changed(self) -> None:
        """Look for what is new before the next answer: this process has written."""
        self._fresh_at = float("-inf")

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _ready(self) -> _Held:
        """Return what is held; read it first if nothing is, or if this process has written."""
        if self._fresh_at == float("-inf"):
            self._refresh()
            self._start()
        return self._held

    def _start(self) -> None:
        with self._refreshing:
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep_fresh, name="case-index-new", daemon=True)
                self._thread.start()

    def _keep_fresh(self) -> None:
        pause = _POLL_S
        while not self._closed.wait(pause):
            began = self._clock()
            with suppress(HistgenError):  # `behind_s` tells
                self._refresh()
            pause = max(_POLL_S, _SHARE * (self._clock() - began))

    def _refresh(self) -> None:
        with self._refreshing:
            began = self._clock()
            try:
                self._held = self._reader.current(self._renewed, _Held())
            except HistgenError:
                raise
            except Exception as error:
                self._held = replace(self._held, seen=("", 0), shards={})  # they may be changed by half
                raise unusable(self._link.where, f"damaged: {type(error).__name__}") from error
            self._fresh_at = began

    def _renewed(self, table: Any, version: Version) -> _Held:
        held = self._held
        seen = (version.table, int(self._link.run(table.version)))
        if seen == held.seen:
            return held
        query = table.query().select(["slide_id", "owner", "model", "organ", "count", "revision"])
        marks = newest(
            [mark for batch in self._link.batches(query, copying=True) for mark in batch.to_pylist()]
        )
        shards = self._read(table, marks, held.shards)
        views = {model: shard.view() for model, shard in shards.items()}
        return _Held(seen, shards, views, self._reader.state_of(version, marks))

    def _read(self, table: Any, marks: list[Mark], shards: dict[str, Shard]) -> dict[str, Shard]:
        """Bring the shards up to date with the table."""
        known = {slide_id: rev for shard in shards.values() for slide_id, rev in shard.revisions.items()}
        there = {mark["slide_id"]: mark["revision"] for mark in marks}
        new = [slide_id for slide_id, revision in there.items() if known.get(slide_id) != revision]
        slots = sum(shard.filled for shard in shards.values())
        if len(new) > max(_IN_ONE_GO, _AFRESH * len(there)) or slots > 2 * _IN_ONE_GO + (1 + _AFRESH) * len(
            there
        ):
            return self._added(table.query(), there, {})
        for shard in shards.values():
            shard.drop([slide_id for slide_id, rev in shard.revisions.items() if there.get(slide_id) != rev])
        for start in range(0, len(new), _IN_ONE_GO):
            some = among("slide_id", new[start : start + _IN_ONE_GO])
            shards = self._added(table.query().where(some), there, shards)
        return {model: shard for model, shard in shards.items() if len(shard)}

    def _added(self, query: Any, there: dict[str, str], shards: dict[str, Shard]) -> dict[str, Shard]:
        """Add the rows of a query, those that are the latest of their slides."""
        import pyarrow as pa
        import pyarrow.compute as pc

        shards = dict(shards)
        for batch in self._link.batches(query.select(schema().names), copying=True):
            latest = pc.is_in(batch.column("revision"), pa.array(there.values(), pa.string()))
            rows = batch.filter(latest)
            for model in pc.unique(rows.column("model")).to_pylist():
                ours = rows.filter(pc.equal(rows.column("model"), model))
                size = ours.column("size")[0].as_py()
                shards.setdefault(model, Shard(size)).add(ours)
        return shards
