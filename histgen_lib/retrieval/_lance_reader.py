"""Reading the index from its storage: one entry, the best for a query, what it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from histgen_lib.retrieval._lance_errors import MovedError
from histgen_lib.retrieval._lance_link import Link, retried
from histgen_lib.retrieval._lance_rows import among, floats, from_rows, newest, where
from histgen_lib.retrieval._lance_versions import Version, Versions
from histgen_lib.retrieval._maxsim import best_hits, maxsim, starts_of
from histgen_lib.retrieval._port import CaseEntry, Floats, Hit, IndexState, Query

T = TypeVar("T")

_TRIES = 5
_SPARE = 2
"""Candidates are that many times the cases asked for, since several of their slides may be of one case."""


class Reader:
    """Reads one index."""

    def __init__(self, link: Link, versions: Versions) -> None:
        self._link, self._versions = link, versions

    def find(self, slide_id: str) -> CaseEntry | None:
        """Return the entry of a slide."""
        return self.current(lambda table, _: self._entry_in(table, slide_id), None)

    def copies(self, slide_id: str) -> list[CaseEntry | None]:
        """Return the entry of a slide in the table in use, and in the one that is being filled, if any."""

        def read() -> list[CaseEntry | None]:
            standing = self._versions.standing()
            if standing.current is None:
                return [None]
            found = [self._entry_in(self._link.table(standing.current.table), slide_id)]
            if standing.following:
                with suppress(MovedError):  # it is not made yet, or gone already
                    return [*found, self._entry_in(self._link.table(standing.following.table), slide_id)]
                return [*found, None]
            return found

        return retried(read, self._link, tries=_TRIES)

    def search(self, query: Query) -> list[Hit]:
        """Compare a query with the vectors of all entries that its filters let through."""
        wanted = _SPARE * query.count
        condition = where(query.filters, query.model)

        def look(table: Any, _: Version) -> list[Hit]:
            scored = list(self._scores(table, query, condition))
            if not scored:
                return []
            scores, slides = np.concatenate([s for s, _ in scored]), [i for _, ids in scored for i in ids]
            order = np.argsort(-scores, kind="stable")
            taken = 0
            while True:
                taken = min(len(order), max(wanted, 4 * taken))
                ids = [slides[i] for i in order[:taken]]
                rows = self._link.run(
                    table.query().where(f"{condition} AND {among('slide_id', ids)}").to_arrow
                )
                hits = best_hits(query, from_rows(rows))
                if len(hits) == query.count or taken == len(order):
                    return hits

        return self.current(look, [])

    def state(self) -> IndexState:
        """Count what the index holds."""
        return self.current(self._state, IndexState(0, "", 0, 0, 0, 0, ()))

    def current(self, read: Callable[[Any, Version], T], nothing: T) -> T:
        """Read from the table in use; again, if another process puts a new version in its place."""

        def attempt() -> T:
            version = self._versions.standing().current
            return nothing if version is None else read(self._link.table(version.table), version)

        return retried(attempt, self._link, tries=_TRIES)

    def _entry_in(self, table: Any, slide_id: str) -> CaseEntry | None:
        query = table.query().where(among("slide_id", [slide_id]))
        return next(iter(from_rows(self._link.run(query.to_arrow))), None)

    def _scores(self, table: Any, query: Query, condition: str) -> Iterator[tuple[Floats, list[str]]]:
        column = {"regions": "regions", "slides": "slide", "texts": "words"}[query.against]
        rows = table.query().where(condition).select(["slide_id", "size", column])
        for batch in self._link.batches(rows):
            if batch.num_rows:
                size = query.vectors.shape[1]
                parts = [floats(data, size) for data in batch.column(column).to_pylist()]
                starts = starts_of(np.array([len(part) for part in parts]))
                yield (
                    maxsim(query.vectors, np.concatenate(parts), starts),
                    batch.column("slide_id").to_pylist(),
                )

    def _state(self, table: Any, version: Version) -> IndexState:
        columns = ["slide_id", "owner", "model", "organ", "count", "revision"]
        rows = self._link.run(table.query().select(columns).to_arrow)
        return self.state_of(version, newest(rows.to_pylist()))

    def state_of(self, version: Version, rows: Sequence[dict[str, Any]]) -> IndexState:
        """Count entries. `rows`: slide_id, owner, model, organ, count and revision of each."""
        models = Counter(row["model"] for row in rows).most_common(1)
        return IndexState(
            version=version.number,
            model=models[0][0] if models else "",
            cases=len({row["owner"] for row in rows}),
            slides=len(rows),
            regions=sum(row["count"] for row in rows),
            size_bytes=self._versions.size_bytes(),
            organs=tuple(sorted({row["organ"] for row in rows} - {""})),
        )
