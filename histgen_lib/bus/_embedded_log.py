"""The embedded broker's file: a SQLite database in WAL mode with topics, records, and groups' positions.

A commit is on disk when it returns (synchronous=FULL), unless it only concerns who is alive. A process that
is killed in mid-transaction leaves nothing of it behind. One host only: WAL's index is shared memory.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from histgen_lib.bus._port import time_of
from histgen_lib.errors import FatalError, HistgenError, TransientError
from histgen_lib.events import DEAD_LETTER, REPORT_DRAFTED, REPORT_SIGNED
from histgen_lib.files import canonical_json

_BUSY_S = 5.0
_SCHEMA = 1
_TABLES = """
CREATE TABLE topic (
    name TEXT PRIMARY KEY, partitions INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE record (
    seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, part INTEGER NOT NULL, position INTEGER NOT NULL,
    headers TEXT NOT NULL, body BLOB NOT NULL, UNIQUE (topic, part, position)
);
-- What a group has of a partition: `next` is the first record that nobody has finished.
CREATE TABLE claim (
    grp TEXT NOT NULL, topic TEXT NOT NULL, part INTEGER NOT NULL, next INTEGER NOT NULL DEFAULT 0,
    holder TEXT, busy INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (grp, topic, part)
) WITHOUT ROWID;
CREATE TABLE member (
    grp TEXT NOT NULL, topic TEXT NOT NULL, id TEXT NOT NULL, expires REAL NOT NULL, session REAL NOT NULL,
    PRIMARY KEY (grp, topic, id)
) WITHOUT ROWID;
"""

_BATCH = 500
_FINISHED = """
SELECT r.seq, r.topic, length(CAST(r.headers AS BLOB)) + length(CAST(r.body AS BLOB)) FROM record r
 WHERE r.seq > ?1 AND r.seq < ?2
   AND r.position < (SELECT MAX(l.position) FROM record l WHERE l.topic = r.topic AND l.part = r.part)
   AND r.position < COALESCE((SELECT MIN(c.next) FROM claim c WHERE c.topic = r.topic AND c.part = r.part),
                             CASE WHEN r.topic IN (?4, ?5, ?6) THEN r.position + 1 ELSE 0 END)
 ORDER BY r.seq LIMIT ?3
"""
_UNTAKEN = (REPORT_DRAFTED, REPORT_SIGNED, DEAD_LETTER)
"""Topics that need no consumer: without a group, their records count as finished."""


class Log:
    """One connection to the file, opened when first used, and again after a disk error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._durable = True

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection for reading. Raises as `write`."""
        try:
            yield self._open()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise _translated(error, self._path) from error

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Run a transaction, all or nothing, alone among all processes; flushed to disk if `durable`.

        Raises TransientError("bus-unavailable"), FatalError("bus-refused"), FatalError("bus-damaged").
        """
        with self.read() as connection:
            if durable is not self._durable:
                connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def version(self) -> int:
        """Return a number that changes when another connection has committed. Costs microseconds."""
        with self.read() as connection:
            return int(connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close the connection; it is opened again when needed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection, self._path)
            except BaseException:
                connection.close()
                raise
            self._connection, self._durable = connection, True
        return self._connection


def ensure_topic(connection: sqlite3.Connection, topic: str, partitions: int) -> int:
    """Create the topic if it is missing; return its number of partitions."""
    connection.execute("INSERT OR IGNORE INTO topic VALUES (?, ?)", (topic, partitions))
    found = connection.execute("SELECT partitions FROM topic WHERE name = ?", (topic,)).fetchone()
    return int(found[0])


def append(
    connection: sqlite3.Connection,
    topic: str,
    key: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    partitions: int,
) -> None:
    """Append a record after all others of its key, inside the caller's transaction."""
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
    part = int.from_bytes(digest[:8], "big") % ensure_topic(connection, topic, partitions)
    connection.execute(
        "INSERT INTO record (topic, part, position, headers, body) SELECT ?1, ?2,"
        " 1 + COALESCE((SELECT MAX(position) FROM record WHERE topic = ?1 AND part = ?2), -1), ?3, ?4",
        (topic, part, canonical_json(dict(headers)).decode(), body),
    )


def finished_records(path: Path, before: datetime, *, remove: bool) -> Iterator[tuple[str, int]]:
    """Yield topic and bytes of each finished record published `before`, after removing it if `remove`.

    Finished: by every group. The last record of each partition stays, whatever its age, as the next one's
    number follows from it.

    A few at a time, so that no process waits long for the file; then the file is shrunk, unless others are
    using it. Raises as `Log.write`.
    """
    if not path.is_file():
        return
    with closing(Log(path)) as log:
        end, after, any_gone = _first_young(log, before), 0, False
        while rows := _batch(log, after, end, remove=remove):
            after, any_gone = rows[-1][0], remove
            yield from ((topic, size) for _, topic, size in rows)
        if any_gone:
            _give_back(path)


def _batch(log: Log, after: int, end: int, *, remove: bool) -> list[tuple[int, str, int]]:
    """Find some finished records, and remove them in the same transaction."""
    with log.write() if remove else log.read() as connection:
        rows: list[tuple[int, str, int]] = connection.execute(
            _FINISHED, (after, end, _BATCH, *_UNTAKEN)
        ).fetchall()
        if remove:
            connection.executemany("DELETE FROM record WHERE seq = ?", [(seq,) for seq, _, _ in rows])
    return rows


def _first_young(log: Log, before: datetime) -> int:
    """Return the number of the first record that is not old; records are numbered in order of arrival."""
    with log.read() as connection:
        last = 0
        for seq, headers in connection.execute("SELECT seq, CAST(headers AS BLOB) FROM record ORDER BY seq"):
            last = seq
            if not _is_before(headers, before):
                return int(seq)
        return last + 1


def _is_before(headers: bytes, before: datetime) -> bool:
    """Judge by the event's time; a record without one, or a damaged one, is as old as those around it."""
    at = time_of(headers)
    return at is None or at < before.timestamp()


def _give_back(path: Path) -> None:
    """Shrink the file, unless others are in the middle of a transaction: then the next run does it."""
    with closing(sqlite3.connect(path, timeout=1.0, isolation_level=None)) as connection:
        try:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError:
            return


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    _use_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")
    found = _schema(connection)
    if found == 0:
        connection.execute("BEGIN IMMEDIATE")
        if _schema(connection) == 0:  # no other process was faster
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_SCHEMA}")
        connection.execute("COMMIT")
    elif found != _SCHEMA:
        raise FatalError(
            "bus-damaged",
            f"The embedded broker's file {path} was written by another version of this software.",
            hint="Use that version, or name another file in HISTGEN_BUS.",
        )


def _schema(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. SQLite itself does not wait while another process does the same."""
    end = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _translated(error: sqlite3.Error | OSError, path: Path) -> HistgenError:
    """Distinguish errors that may pass from those that will not."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CANTOPEN) & 0xFF
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}:
        return FatalError(
            "bus-damaged",
            f"The embedded broker's file {path} is damaged, or was not written by this software.",
            hint="Restore it from a backup, or name another file in HISTGEN_BUS.",
        )
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM} or _no_rights(error, path):
        return FatalError(
            "bus-refused",
            f"The embedded broker's file {path} cannot be written.",
            hint="Allow this user to write the file and its folder, or name another file in HISTGEN_BUS.",
        )
    why = "busy" if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED} else "not available"
    return TransientError(
        "bus-unavailable",
        f"The embedded broker's file {path} is {why}.",
        hint="It is retried; if this lasts, check whether the disk is full or gone.",
    )


def _no_rights(error: sqlite3.Error | OSError, path: Path) -> bool:
    if isinstance(error, OSError):
        return isinstance(error, PermissionError | NotADirectoryError | FileExistsError)
    place = path if path.exists() else path.parent
    return place.exists() and not os.access(place, os.W_OK)
