"""Writing to the index: entries, withdrawals, and the filling of a next version beside the one in use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

from histgen_lib.errors import TransientError
from histgen_lib.retrieval._lance_errors import ClashError, MovedError, unavailable
from histgen_lib.retrieval._lance_link import Link, retried
from histgen_lib.retrieval._lance_rows import among, quoted, schema, to_rows
from histgen_lib.retrieval._lance_versions import Version, Versions, new_table
from histgen_lib.retrieval._port import CaseEntry

_TRIES = 12
_BATCH = 500
"""Entries written in one go: some 5 MB."""

_RENEW_S = 30.0
_AT_ONCE = timedelta(milliseconds=1)

_DRAFT_OF_SIGNED = "(target.signed AND NOT source.signed AND target.report_digest = source.report_digest)"


class Writer:
    """Writes to one index. `clock`: monotonic seconds."""

    def __init__(
        self, link: Link, versions: Versions, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._link, self._versions, self._clock = link, versions, clock

    def put(self, rows: Any) -> None:
        """Write rows to every table that stands."""
        self._current()
        self._everywhere(lambda table, _: self._merge(table, rows, f"NOT {_DRAFT_OF_SIGNED}"))

    def withdraw(self, owners: set[str]) -> int:
        """Delete the rows of these owners; return how many the index had."""
        condition = among("owner", owners)

        def delete(table: Any, following: bool) -> int:
            if not following and not self._link.run(lambda: table.count_rows(condition)):
                return 0
            self._versions.note_withdrawn(table.name, owners)
            return self._delete(table, condition)

        return max(self._everywhere(delete), default=0)

    def compact(self) -> None:
        """Copy the rows as they are into a new table, and remove the one with what is deleted or replaced."""
        self._compact(lambda current: self._holds_withdrawn(current) or self._changes(current))

    def drop_withdrawn(self, others: Callable[[], Iterable[str]]) -> int:
        """Do as `compact`, but only if something was withdrawn; copy no rows of `others`, and count these."""
        return self._compact(self._holds_withdrawn, others)

    def _compact(self, is_due: Callable[[Version], bool], others: Callable[[], Iterable[str]] = tuple) -> int:
        self._versions.clear()

        def due() -> bool:
            current = self._versions.standing().current
            return current is not None and is_due(current)

        if not retried(due, self._link, tries=_TRIES):
            return 0
        left_out = self._fill(self._rows_of, others)
        self._versions.clear()
        return left_out

    def rebuild(self, entries: Callable[[], Iterable[CaseEntry]], progress: Callable[[int], None]) -> None:
        """Fill a new version from `entries`, switch to it, and remove the one before."""
        self._current()
        self._versions.clear()
        self._fill(lambda _: _batches_of(entries(), progress, self._clock))
        self._versions.clear()

    def _current(self) -> Version:
        """Return the version in use; make the first one if there is none."""
        while (current := self._versions.standing().current) is None:
            table = new_table()
            self._link.create(table)
            self._versions.switch(Version(1, table))
        return current

    def _everywhere(self, act: Callable[[Any, bool], int]) -> list[int]:
        """Do something in the index, and in the table that is being filled; look again until none is left."""
        done: dict[str, int] = {}

        def attempt() -> None:
            while True:
                standing = self._versions.standing()
                left = [name for name in standing.tables if name not in done]
                if not left:
                    return
                following = standing.following is not None and left[0] == standing.following.table
                table = self._made(left[0]) if following else self._link.table(left[0])
                done[left[0]] = act(table, following)

        retried(attempt, self._link, tries=_TRIES)
        return list(done.values())

    def _made(self, name: str) -> Any:
        """Open an announced table; make it if its filler has not come to that yet."""
        try:
            return self._link.table(name)
        except MovedError:
            pass
        try:
            self._link.create(name)
        except ClashError:
            self._link.forget()
        return self._link.table(name)

    def _merge(self, table: Any, rows: Any, replaces: str) -> int:
        merge = table.merge_insert("slide_id").when_matched_update_all(where=replaces)
        result = self._link.run(lambda: merge.when_not_matched_insert_all().execute(rows), copying=True)
        return int(result.num_inserted_rows + result.num_updated_rows)

    def _delete(self, table: Any, where: str) -> int:
        return int(self._link.run(lambda: table.delete(where), copying=True).num_deleted_rows)

    def _holds_withdrawn(self, version: Version) -> bool:
        """Whether rows were withdrawn from a table, whose files then hold them still."""
        return self._versions.has_withdrawn(version.table)

    def _changes(self, version: Version) -> bool:
        table = self._link.table(version.table)
        return int(self._link.run(table.version)) != version.settled

    def _fill(
        self, batches: Callable[[Version], Iterator[Any]], others: Callable[[], Iterable[str]] = tuple
    ) -> int:
        """Announce a version, fill it, leave out what is withdrawn meanwhile, and switch to it.

        `batches`: of the rows, given the version that it is to follow. `others`: owners whose rows are left
        out, asked once what is put goes to the new version, too. Returns how many rows were left out.
        """
        current = self._current()
        version = Version(current.number + 1, new_table())
        if not self._versions.announce(version):
            raise unavailable(self._link.where, "another process is compacting or rebuilding it")
        try:
            left_out = self._copy(version, batches(current), frozenset(others()))
            settled = self._finished(version, current)
        except MovedError as error:
            self._versions.abandon(version)
            raise unavailable(self._link.where, "another process switched versions") from error
        except BaseException:
            self._versions.abandon(version)
            raise
        switched = self._versions.switch(settled)
        standing = self._versions.standing().current
        if not switched or standing is None or standing.number != version.number:
            raise unavailable(self._link.where, "it was away too long while it filled a version")
        return left_out

    def _copy(self, version: Version, batches: Iterator[Any], without: frozenset[str]) -> int:
        """Write rows to a version, but for those of these owners; return how many these are."""
        self._made(version.table)
        renewed, left_out = self._clock(), 0
        for rows in batches:
            kept = _others_than(without, rows)
            left_out += rows.num_rows - kept.num_rows
            if kept.num_rows:
                self._merge_copied(version.table, kept)
            if self._clock() - renewed > _RENEW_S:
                self._versions.renew(version)
                renewed = self._clock()
        return left_out

    def _finished(self, version: Version, current: Version) -> Version:
        """Leave out what was withdrawn meanwhile, and put the files in order."""
        left_out: set[str] = set()
        while (withdrawn := self._versions.withdrawn(version.table)) != left_out:
            self._leave_out(version.table, current, left_out := withdrawn)
        self._versions.renew(version)
        table = self._link.table(version.table)
        self._tidy(table)
        return Version(version.number, version.table, int(self._link.run(table.version)))

    def _merge_copied(self, name: str, rows: Any) -> None:
        """Write copied rows; none replaces one that was put meanwhile, unless that is its draft."""
        ours = f"target.build = {quoted(name)}"
        signs = "(source.signed AND NOT target.signed AND target.report_digest = source.report_digest)"
        marked = rows.set_column(
            rows.schema.get_field_index("build"), rows.schema.field("build"), [[name] * len(rows)]
        )
        replaces = f"({ours} AND NOT {_DRAFT_OF_SIGNED}) OR {signs}"
        retried(partial(self._merge_into, name, marked, replaces), self._link, tries=_TRIES)

    def _leave_out(self, name: str, current: Version, owners: set[str]) -> None:
        """Delete the copied rows of owners that were withdrawn; put back what the index has of them since."""
        condition = among("owner", owners)
        copied = f"build = {quoted(name)} AND {condition}"
        retried(lambda: self._delete(self._made(name), copied), self._link, tries=_TRIES)
        for rows in self._rows_of(current, condition):
            retried(partial(self._merge_into, name, rows, "false"), self._link, tries=_TRIES)

    def _merge_into(self, name: str, rows: Any, replaces: str) -> int:
        return self._merge(self._made(name), rows, replaces)

    def _tidy(self, table: Any) -> None:
        """Put the many small files together. If others are writing, it is left as it is."""
        try:
            self._link.run(lambda: table.optimize(cleanup_older_than=_AT_ONCE), copying=True)
            self._link.run(table.checkout_latest)
        except (ClashError, MovedError, TransientError):
            self._link.forget()

    def _rows_of(self, version: Version, condition: str = "") -> Iterator[Any]:
        """Yield the rows of a version as it is now, those that meet a condition in SQL."""
        import pyarrow as pa

        query = self._link.table(version.table).query().select(schema().names)
        query = query.where(condition) if condition else query
        for batch in self._link.batches(query, copying=True):
            for start in range(0, batch.num_rows, _BATCH):
                yield pa.Table.from_batches([batch.slice(start, _BATCH)])


def _others_than(owners: Iterable[str], rows: Any) -> Any:
    """Return the rows of all owners but these."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return rows.filter(pc.invert(pc.is_in(rows.column("owner"), pa.array(sorted(owners), pa.string()))))


def _batches_of(
    entries: Iterable[CaseEntry], progress: Callable[[int], None], clock: Callable[[], float]
) -> Iterator[Any]:
    """Yield rows before the announcement has to be renewed: each entry may take seconds to be encoded."""
    batch: list[CaseEntry] = []
    count, began = 0, clock()
    for entry in entries:
        batch.append(entry)
        if len(batch) == _BATCH or clock() - began > _RENEW_S:
            yield to_rows(batch)
            count += len(batch)
            progress(count)
            batch, began = [], clock()
    if batch:
        yield to_rows(batch)
        progress(count + len(batch))
