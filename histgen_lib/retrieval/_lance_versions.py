"""Which table is the index: versions by number, switched by a conditional write.

    versions/00000007.json   names the table of version 7; the highest number is the index
    versions/00000008.next   announces the table that will be version 8: it is being filled
    notes/<table>/…          owners that were withdrawn from that table, or while it was being filled
    tables/<table>.lance/…   LanceDB's

Who writes an entry, or withdraws one, does so in the index and in the announced table, and looks again before
it answers; so from its announcement on, the next version misses nothing. A filler that dies stops renewing
its announcement. Before anybody clears up after it, its number is taken by a copy of the version before, so
that a filler that was only asleep can no longer switch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex

from histgen_lib.retrieval._lance_errors import storage_translated, unusable
from histgen_lib.retrieval._lance_link import TABLES
from histgen_lib.storage import JSON, ObjectInfo, ObjectStore

_VERSIONS, _NOTES = "versions/", "notes/"
_NUMBER = ".json"
_NEXT = ".next"

ALIVE_S = 900.0
"""A filler renews its announcement far more often; if it has not for so long, it is gone."""


@dataclass(frozen=True)
class Version:
    """A version's `number` and `table`; `settled`: LanceDB's version of the table when it was filled."""

    number: int
    table: str
    settled: int = 0


@dataclass(frozen=True)
class Standing:
    """The index now, None before the first entry; the version that is being filled, if any."""

    current: Version | None
    following: Version | None

    @property
    def tables(self) -> list[str]:
        """The tables that an entry is written to, the index first."""
        return [version.table for version in (self.current, self.following) if version]


class Versions:
    """The versions of one index. `now`: seconds since 1970, by the clock of the storage."""

    def __init__(self, store: ObjectStore, where: str, now: Callable[[], float] = time.time) -> None:
        self._store, self._where, self._now = store, where, now
        self._read: dict[str, tuple[str, Version]] = {}

    def standing(self) -> Standing:
        """Say which tables stand; costs one listing."""
        with self._translated():
            while True:
                infos = list(self._store.list(_VERSIONS))  # by key
                current = next((info for info in reversed(infos) if info.key.endswith(_NUMBER)), None)
                following = next((info for info in reversed(infos) if info.key.endswith(_NEXT)), None)
                if current is None:
                    return Standing(None, None)
                if found := self._known(current):  # else another process has just gone on to the next
                    ahead = following is not None and _number(following.key) > found.number
                    return Standing(found, self._known(following) if following and ahead else None)

    def switch(self, version: Version) -> bool:
        """Make a version the index; False if another has its number already."""
        return self._claim(f"{_VERSIONS}{version.number:08d}{_NUMBER}", version)

    def announce(self, version: Version) -> bool:
        """Announce a version that is about to be filled; False if another is being filled."""
        return self._claim(_next_key(version), version)

    def renew(self, version: Version) -> None:
        """Say that a version is still being filled."""
        with self._translated():
            self._store.put(_next_key(version), _json(version), if_absent=False, content_type=JSON)

    def note_withdrawn(self, table: str, owners: Iterable[str]) -> None:
        """Leave word that these owners are withdrawn from a table, for its filler and for who compacts it."""
        with self._translated():
            data = json.dumps(sorted(owners)).encode()
            self._store.put(f"{_NOTES}{table}/{token_hex(16)}.json", data, content_type=JSON)

    def withdrawn(self, table: str) -> set[str]:
        """Return the owners that were withdrawn from a table."""
        with self._translated():
            notes = [self._store.find(info.key) for info in self._store.list(f"{_NOTES}{table}/")]
            return {owner for note in notes if note for owner in json.loads(note)}

    def has_withdrawn(self, table: str) -> bool:
        """Return whether any owner was withdrawn from a table."""
        with self._translated():
            return any(self._store.list(f"{_NOTES}{table}/"))

    def clear(self) -> None:
        """Remove what no version needs: tables, announcements, notes, and the names of earlier versions.

        Tables are listed first: one that is made after that is not touched, one made before was announced.
        """
        self._bury_dead()
        with self._translated():
            found = [(_table(info.key), info.key) for info in self._store.list(f"{TABLES}/")]
            found += [(_table(info.key), info.key) for info in self._store.list(_NOTES)]
            standing = self.standing()
            if standing.current is None:
                return
            for table, key in found:
                if table not in standing.tables:
                    self._store.delete(key)
            for key in [info.key for info in self._store.list(_VERSIONS)]:
                if _number(key) < standing.current.number + key.endswith(_NEXT):
                    self._store.delete(key)

    def size_bytes(self) -> int:
        """Return the size of all that the index has in storage."""
        with self._translated():
            return sum(info.size_bytes for info in self._store.list())

    def abandon(self, version: Version) -> None:
        """Give up filling a version: its number goes to a copy of the index as it is."""
        if current := self.standing().current:
            self.switch(Version(version.number, current.table, settled=current.settled))

    def _bury_dead(self) -> None:
        following = self.standing().following
        if following is None:
            return
        with self._translated():
            found = self._store.head(_next_key(following))
        if found and self._now() - found.modified_at > ALIVE_S:
            self.abandon(following)

    def _claim(self, key: str, version: Version) -> bool:
        with self._translated():
            if self._store.put(key, _json(version), content_type=JSON):
                return True
            there = self._version(key)  # ours, if the client's first try was heard and not answered
            return there is not None and there.table == version.table

    def _known(self, info: ObjectInfo) -> Version | None:
        """Return what was read of an object as it is now; who lost an index begins at version 1 again."""
        etag, version = self._read.get(info.key, ("", None))
        if etag != info.etag or version is None:
            version = self._version(info.key)
            if version is not None:
                self._read[info.key] = info.etag, version
        return version

    def _version(self, key: str) -> Version | None:
        data = self._store.find(key)
        try:
            return Version(**json.loads(data)) if data is not None else None
        except (ValueError, TypeError) as error:
            raise unusable(self._where, "a version's record is damaged") from error

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with storage_translated(self._where):
            yield


def new_table() -> str:
    """Return the name of a table that nobody has."""
    return f"cases-{token_hex(8)}"


def _table(key: str) -> str:
    """Return the table of a file or note: the second part of its key."""
    return key.split("/")[1].removesuffix(".lance")


def _number(key: str) -> int:
    return int(key.removeprefix(_VERSIONS).partition(".")[0])


def _next_key(version: Version) -> str:
    return f"{_VERSIONS}{version.number:08d}{_NEXT}"


def _json(version: Version) -> bytes:
    return json.dumps({"number": version.number, "table": version.table, "settled": version.settled}).encode()
