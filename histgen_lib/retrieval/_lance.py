"""The case index on LanceDB: tables in a folder or in S3, written by several processes, read by many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from histgen_lib.retrieval._lance_errors import storage_translated
from histgen_lib.retrieval._lance_link import Link
from histgen_lib.retrieval._lance_reader import Reader
from histgen_lib.retrieval._lance_resident import Resident
from histgen_lib.retrieval._lance_rows import to_rows
from histgen_lib.retrieval._lance_versions import Versions
from histgen_lib.retrieval._lance_writer import Writer
from histgen_lib.retrieval._port import CaseEntry, CaseIndex, CaseIndexSettings, Hit, IndexState, Query
from histgen_lib.retrieval._rules import check_entry, check_query
from histgen_lib.storage import open_store


class LanceCaseIndex:
    """A `CaseIndex`. LanceDB and the storage are contacted when it is first used."""

    def __init__(self, settings: CaseIndexSettings) -> None:
        where = settings.storage.url
        with storage_translated(where):
            store = open_store(settings.storage)
        self._link = Link(settings.storage)
        versions = Versions(store, where)
        self._writer, self._reader = Writer(self._link, versions), Reader(self._link, versions)
        self._resident = Resident(self._link, self._reader) if settings.resident else None

    def put(self, entries: Sequence[CaseEntry]) -> None:
        """See `CaseIndex.put`."""
        for entry in entries:
            check_entry(entry)
        if entries:
            with self._changing():
                self._writer.put(to_rows(entries))

    def find(self, slide_id: str) -> CaseEntry | None:
        """See `CaseIndex.find`."""
        return (self._resident or self._reader).find(slide_id)

    def copies(self, slide_id: str) -> list[CaseEntry | None]:
        """See `CaseIndex.copies`."""
        return self._reader.copies(slide_id)

    def withdraw(self, owners: Iterable[str]) -> int:
        """See `CaseIndex.withdraw`."""
        gone = set(owners)
        if not gone:
            return 0
        with self._changing():
            return self._writer.withdraw(gone)

    def search(self, query: Query) -> list[Hit]:
        """See `CaseIndex.search`."""
        check_query(query)
        return (self._resident or self._reader).search(query)

    def compact(self) -> None:
        """See `CaseIndex.compact`."""
        with self._changing():
            self._writer.compact()

    def drop_withdrawn(self, others: Callable[[], Iterable[str]] = tuple) -> int:
        """See `CaseIndex.drop_withdrawn`."""
        with self._changing():
            return self._writer.drop_withdrawn(others)

    def rebuild(
        self, model: str, entries: Callable[[], Iterable[CaseEntry]], *, progress: Callable[[int], None]
    ) -> IndexState:
        """See `CaseIndex.rebuild`."""
        with self._changing():
            self._writer.rebuild(lambda: _checked(entries(), model), progress)
        return self.state()

    def state(self) -> IndexState:
        """See `CaseIndex.state`."""
        return (self._resident or self._reader).state()

    def behind_s(self) -> float:
        """See `CaseIndex.behind_s`."""
        return self._resident.behind_s() if self._resident else 0.0

    def close(self) -> None:
        """See `CaseIndex.close`."""
        if self._resident:
            self._resident.close()
        self._link.close()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Have this process see its own changes at once, also those that failed half-way."""
        try:
            yield
        finally:
            if self._resident:
                self._resident.changed()


def open_case_index(settings: CaseIndexSettings) -> CaseIndex:
    """Open the index; there need not be one. Raises FatalError("case-index-unusable") for a bad URL."""
    return LanceCaseIndex(settings)


def _checked(entries: Iterable[CaseEntry], model: str) -> Iterable[CaseEntry]:
    for entry in entries:
        check_entry(entry)
        if entry.model != model:
            raise ValueError("an entry of another model")
        yield entry
