"""A case index in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from histgen_lib.retrieval._maxsim import best_hits
from histgen_lib.retrieval._port import CaseEntry, Filters, Hit, IndexState, Query
from histgen_lib.retrieval._rules import check_entry, check_query, gives_way


class MemoryCaseIndex:
    """A `CaseIndex` that keeps its entries in this process and compares a query with all of them.

    Set `error` to have every call raise it, as an index does whose storage is unavailable, and `behind` for
    one that has not seen its storage for so many seconds. `entries` holds what it has, by slide id, to look
    at.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.behind = 0.0
        self.entries: dict[str, CaseEntry] = {}
        self._lock = threading.RLock()
        self._version = 1
        self._dropped = True
        self._rebuilding: _Meanwhile | None = None

    def put(self, entries: Sequence[CaseEntry]) -> None:
        """See `CaseIndex.put`."""
        for entry in entries:
            check_entry(entry)
        with self._ready():
            for entry in entries:
                _place(self.entries, entry)
                if self._rebuilding:
                    _place(self._rebuilding.put, entry)

    def find(self, slide_id: str) -> CaseEntry | None:
        """See `CaseIndex.find`."""
        with self._ready():
            return self.entries.get(slide_id)

    def copies(self, slide_id: str) -> list[CaseEntry | None]:
        """See `CaseIndex.copies`: a put is never done by half here."""
        return [self.find(slide_id)]

    def withdraw(self, owners: Iterable[str]) -> int:
        """See `CaseIndex.withdraw`."""
        gone = set(owners)
        with self._ready():
            before = len(self.entries)
            self.entries = _without(self.entries, gone)
            self._dropped = self._dropped and len(self.entries) == before
            if self._rebuilding:
                self._rebuilding.put = _without(self._rebuilding.put, gone)
                self._rebuilding.withdrawn |= gone
            return before - len(self.entries)

    def search(self, query: Query) -> list[Hit]:
        """See `CaseIndex.search`."""
        check_query(query)
        with self._ready():
            entries = list(self.entries.values())
        return best_hits(query, (e for e in entries if e.model == query.model and _matches(e, query.filters)))

    def compact(self) -> None:
        """See `CaseIndex.compact`: nothing is kept here that is not in use."""
        with self._ready():
            self._dropped = True

    def drop_withdrawn(self, others: Callable[[], Iterable[str]] = tuple) -> int:
        """See `CaseIndex.drop_withdrawn`."""
        with self._ready():
            gone = 0 if self._dropped else self.withdraw(others())
            self._dropped = True
            return gone

    def rebuild(
        self, model: str, entries: Callable[[], Iterable[CaseEntry]], *, progress: Callable[[int], None]
    ) -> IndexState:
        """See `CaseIndex.rebuild`."""
        with self._ready():
            self._rebuilding = meanwhile = _Meanwhile()
        built: dict[str, CaseEntry] = {}
        try:
            for count, entry in enumerate(entries(), start=1):
                check_entry(entry)
                built[entry.slide_id] = entry
                progress(count)
            with self._ready():
                built = _without(built, meanwhile.withdrawn)
                for entry in meanwhile.put.values():
                    _place(built, entry)
                self.entries, self._version = built, self._version + 1
        finally:
            self._rebuilding = None
        return self.state()

    def state(self) -> IndexState:
        """See `CaseIndex.state`."""
        with self._ready():
            entries = list(self.entries.values())
        regions = sum(len(entry.vectors.regions) for entry in entries)
        models = sorted({entry.model for entry in entries}, key=lambda m: sum(e.model == m for e in entries))
        return IndexState(
            version=self._version,
            model=models[-1] if models else "",
            cases=len({entry.owner for entry in entries}),
            slides=len(entries),
            regions=regions,
            size_bytes=sum(entry.vectors.regions.nbytes for entry in entries),
            organs=tuple(sorted({entry.organ for entry in entries if entry.organ})),
        )

    def behind_s(self) -> float:
        """See `CaseIndex.behind_s`: `behind`."""
        return self.behind

    def close(self) -> None:
        """See `CaseIndex.close`."""

    def _ready(self) -> threading.RLock:
        if self.error is not None:
            raise self.error
        return self._lock


class _Meanwhile:
    """What was put and withdrawn while a new version is being built."""

    def __init__(self) -> None:
        self.put: dict[str, CaseEntry] = {}
        self.withdrawn: set[str] = set()


def _place(entries: dict[str, CaseEntry], entry: CaseEntry) -> None:
    before = entries.get(entry.slide_id)
    if before is None or not gives_way(entry, before):
        entries[entry.slide_id] = entry


def _without(entries: dict[str, CaseEntry], owners: set[str]) -> dict[str, CaseEntry]:
    return {slide_id: entry for slide_id, entry in entries.items() if entry.owner not in owners}


def _matches(entry: CaseEntry, filters: Filters) -> bool:
    alike = all(
        not wanted or wanted.casefold() == stated.casefold()
        for wanted, stated in (
            (filters.organ, entry.organ),
            (filters.stain, entry.stain),
            (filters.site, entry.site),
        )
    )
    in_time = not (filters.since or filters.until) or bool(
        entry.date and (filters.since or entry.date) <= entry.date <= (filters.until or entry.date)
    )
    kind = filters.signed in (None, entry.signed) and filters.synthetic in (None, entry.synthetic)
    return alike and in_time and kind and entry.owner not in filters.without
