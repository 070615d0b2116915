"""The index of slides: an SQLite file in the stack's folder that says at once where every slide stands.

It is a cache of what the store says, kept by one process (`catalogue/indexer.py`) and read by all. It may be
removed at any time; a missing or damaged one, or one of another version or store, is made anew.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from histgen_lib.catalogue.dead_letter import GATEWAY
from histgen_lib.catalogue.keys import COPIES, LETTERS, letter_name
from histgen_lib.catalogue.states import SlideState
from histgen_lib.events import SlideScanned
from histgen_lib.storage import StorageSettings

T = TypeVar("T")
SCHEMA = 3
AT_ONCE, NEXT = 0.0, 1.0
"""When a look is due that somebody waits for, and one that nobody waits for."""
NEWS_S = 3600.0
"""An end that is found later than this is not news."""
_BUSY_S = 2.0
_KNOW = "INSERT OR REPLACE INTO object VALUES (?, ?, ?)"
_NEWS = 10_000
"""How many of the latest ends are kept."""
_TABLES = """
-- Where slides stand: one entry each, and one for every dead letter that belongs to none.
CREATE TABLE entry (
    id INTEGER PRIMARY KEY, subject TEXT NOT NULL, state TEXT NOT NULL, ended INTEGER NOT NULL,
    at TEXT NOT NULL, slide_id TEXT NOT NULL, refused TEXT NOT NULL, body TEXT NOT NULL
);
-- How many entries are in each state: counting would take longer, the more there are.
CREATE TABLE tally (state TEXT PRIMARY KEY, entries INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER tally_more AFTER INSERT ON entry BEGIN
    INSERT INTO tally VALUES (NEW.state, 1) ON CONFLICT (state) DO UPDATE SET entries = entries + 1;
END;
CREATE TRIGGER tally_less AFTER DELETE ON entry BEGIN
    UPDATE tally SET entries = entries - 1 WHERE state = OLD.state;
END;
-- The latest ends in the order in which they were found, for those who follow the stream.
CREATE TABLE news (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, first INTEGER NOT NULL, body TEXT NOT NULL
);
CREATE INDEX entry_subject ON entry (subject);
CREATE INDEX entry_newest ON entry (ended, at DESC, slide_id);
CREATE INDEX entry_refused ON entry (refused) WHERE refused <> '';
CREATE INDEX entry_state ON entry (state, at DESC, slide_id);
-- What to look at again and when: a slide by its id, a letter without an event by its key.
CREATE TABLE subject (
    name TEXT PRIMARY KEY, due REAL NOT NULL, misses INTEGER NOT NULL DEFAULT -1,
    touched INTEGER NOT NULL DEFAULT 0, rests INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX subject_due ON subject (rests, due);
CREATE INDEX subject_new ON subject (name) WHERE misses < 0;
-- The store's objects that entries come from, as they were last listed or read.
CREATE TABLE object (key TEXT PRIMARY KEY, etag TEXT NOT NULL, subject TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX object_subject ON object (subject);
CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Due:
    """A subject to be looked at. `misses`: how many looks in a row found nothing new, -1 before the first.

    `touched`: how often a look was asked for; one that is asked for during a look is another one.
    """

    subject: str
    misses: int
    touched: int


@dataclass(frozen=True)
class End:
    """The end of a slide. `at`: seconds since 1970; `first`: the index had nothing of the slide before."""

    at: float
    first: bool
    slide: SlideState


@dataclass(frozen=True)
class Change:
    """An object that differs from what was known; no etag if it is gone. `news`: `subject` needs a look."""

    key: str
    etag: str = ""
    subject: str = ""
    news: bool = True

    def write(self, change: sqlite3.Connection) -> None:
        """Write it to the index."""
        if self.etag:
            change.execute(_KNOW, (self.key, self.etag, self.subject))
            if self.news:
                _touch(change, self.subject, NEXT)
            return
        for (subject,) in change.execute("SELECT subject FROM object WHERE key = ?", (self.key,)).fetchall():
            _touch(change, subject, NEXT)
        change.execute("DELETE FROM object WHERE key = ?", (self.key,))


class Index:
    """The file. Safe to use from several threads and processes. Raises sqlite3.Error.

    `open_index` and `make_index` open it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection, self._lock = connection, threading.RLock()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    # For those who ask where slides stand.

    def counts(self) -> dict[str, int]:
        """Count the entries by state."""
        return dict(self._rows("SELECT state, entries FROM tally WHERE entries > 0"))

    def page(self, states: Collection[str] = (), *, limit: int = -1, offset: int = 0) -> list[SlideState]:
        """Return entries in order: unfinished ones before ended ones, the newest scan first.

        `states`: only those in one of them.
        """
        sql = "SELECT body FROM entry"
        if states:
            sql += f" WHERE state IN ({', '.join('?' * len(states))})"
        sql += " ORDER BY ended, at DESC, slide_id, id LIMIT ? OFFSET ?"
        return [SlideState.from_text(body) for (body,) in self._rows(sql, *states, limit, offset)]

    def of(self, subject: str) -> list[SlideState]:
        """Return the entries of a slide."""
        rows = self._rows("SELECT body FROM entry WHERE subject = ? ORDER BY id", subject)
        return [SlideState.from_text(body) for (body,) in rows]

    def letters_of(self, slide_id: str) -> list[str]:
        """Return the names of a slide's dead letters."""
        return [letter_name(key) for key in self._keys_of(slide_id, LETTERS)]

    def copies_of(self, slide_id: str) -> tuple[str, ...]:
        """Return the names of a slide's copies."""
        return tuple(key.split("/")[-2] for key in self._keys_of(slide_id, COPIES))

    def last_number(self) -> int:
        """Return the number of the end that was found last; 0 if none was."""
        return int(self._rows("SELECT COALESCE(MAX(number), 0) FROM news")[0][0])

    def ends(self, after: int, last: int, since: float) -> list[End]:
        """Return the ends with numbers after `after`, up to `last`, that happened since `since`."""
        sql = "SELECT at, first, body FROM news WHERE number > ? AND number <= ? AND at >= ? ORDER BY number"
        found = self._rows(sql, after, last, since)
        return [End(at, bool(first), SlideState.from_text(body)) for at, first, body in found]

    # For the one who keeps the index.

    def fact(self, name: str) -> str:
        """Return what was noted about the index itself; "" for nothing."""
        rows = self._rows("SELECT value FROM fact WHERE name = ?", name)
        return str(rows[0][0]) if rows else ""

    def note(self, name: str, value: str) -> None:
        """Note something about the index itself."""
        with self._change() as change:
            _note(change, name, value)

    def touch(self, subjects: Iterable[str], key: str = "") -> None:
        """Have subjects looked at soon. `key`: of an object in the store that concerns them."""
        with self._change() as change:
            for subject in subjects:
                if key:
                    change.execute("INSERT OR IGNORE INTO object VALUES (?, '', ?)", (key, subject))
                _touch(change, subject, AT_ONCE)
            _note(change, "settled", "")

    def due(self, now: float, limit: int) -> list[Due]:
        """Return the subjects that are due, the longest due first; those that ended come last."""
        sql = "SELECT name, misses, touched FROM subject WHERE rests = ? AND due <= ? ORDER BY due LIMIT ?"
        busy = [Due(*row) for row in self._rows(sql, False, now, limit)]
        return busy + [Due(*row) for row in self._rows(sql, True, now, limit - len(busy))]

    def unsettle(self) -> None:
        """Have all unfinished slides looked at again."""
        self._hurry("SELECT subject FROM entry WHERE ended = 0")

    def unfinished(self) -> int:
        """Count the slides that have not ended."""
        return int(self._rows("SELECT COUNT(*) FROM entry WHERE ended = 0")[0][0])

    def oldest_scan(self) -> str:
        """Return when the first of them that waits for no other slide was scanned, in UTC; "" for none."""
        waits = "ended = 0 AND at <> '' AND json_extract(body, '$.lacks') IS NULL"
        return str(self._rows(f"SELECT COALESCE(MIN(at), '') FROM entry WHERE {waits}")[0][0])

    def has_new(self) -> bool:
        """Return whether there is a subject that was never looked at."""
        return bool(self._rows("SELECT 1 FROM subject WHERE misses < 0 LIMIT 1"))

    def known(self, prefix: str, after: str, limit: int) -> list[tuple[str, str]]:
        """Return keys and etags of the objects below a prefix, by key."""
        sql = "SELECT key, etag FROM object WHERE key > ? AND key < ? ORDER BY key LIMIT ?"
        rows = self._rows(sql, max(after, prefix), prefix[:-1] + chr(ord(prefix[-1]) + 1), limit)
        return [(str(key), str(etag)) for key, etag in rows]

    def whose(self, key: str) -> str:
        """Return the subject of an object that was listed before; "" if it was not."""
        rows = self._rows("SELECT subject FROM object WHERE key = ?", key)
        return str(rows[0][0]) if rows else ""

    def listed(self, changes: Iterable[Change]) -> None:
        """Note objects that are new, written anew, or gone; and have their subjects looked at."""
        with self._change() as change:
            for one in changes:
                one.write(change)

    def write(self, looks: Sequence[Look]) -> None:
        """Write what looks have found."""
        with self._change() as change:
            for one in looks:
                one.write(change)
            change.execute("DELETE FROM news WHERE number <= (SELECT MAX(number) FROM news) - ?", (_NEWS,))

    def hurry_queue(self, state: str, at: str, count: int) -> None:
        """Have the next slides of a queue looked at soon, as one of them has just moved on."""
        chosen = "SELECT subject FROM entry WHERE state = ? AND at >= ? ORDER BY at LIMIT ?"
        self._hurry(chosen, state, at, count)

    def hurry_refused(self, content_id: str) -> None:
        """Have the slides looked at soon for which the gateway had refused a file with these bytes."""
        self._hurry("SELECT subject FROM entry WHERE refused = ? AND refused <> ''", content_id)

    def hurry(self, names: Iterable[str]) -> None:
        """Have these subjects looked at soon, as far as they are known."""
        with self._change() as change:
            soon = "UPDATE subject SET due = 0, rests = 0 WHERE name = ?"
            change.executemany(soon, [(name,) for name in names])

    def _hurry(self, chosen: str, *values: object) -> None:
        with self._change() as change:
            change.execute(f"UPDATE subject SET due = 0, rests = 0 WHERE name IN ({chosen})", values)

    def _keys_of(self, subject: str, prefix: str) -> list[str]:
        rows = self._rows("SELECT key FROM object WHERE subject = ? ORDER BY key", subject)
        return [key for (key,) in rows if key.startswith(prefix)]

    def _rows(self, sql: str, *values: object) -> list[Any]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


@dataclass(frozen=True)
class Look:
    """What a look has found, and when the next one is due, in seconds since 1970.

    `ends`: those that were not known before. `key` and `etag`: of the subject's own object, if it is there.
    """

    target: Due
    states: Sequence[SlideState]
    due: float
    misses: int
    ends: Sequence[End] = ()
    key: str = ""
    etag: str = ""

    def write(self, change: sqlite3.Connection) -> None:
        """Write it to the index, in place of what was found before."""
        name = self.target.subject
        change.execute("DELETE FROM entry WHERE subject = ?", (name,))
        entry = "entry (subject, state, ended, at, slide_id, refused, body)"
        change.executemany(
            f"INSERT INTO {entry} VALUES (?, ?, ?, ?, ?, ?, ?)", [_row(name, state) for state in self.states]
        )
        ends = [(end.at, end.first, end.slide.to_text()) for end in self.ends]
        change.executemany("INSERT INTO news (at, first, body) VALUES (?, ?, ?)", ends)
        if self.states:
            change.execute("UPDATE subject SET misses = ? WHERE name = ?", (self.misses, name))
            change.execute(
                "UPDATE subject SET due = ?, rests = ? WHERE name = ? AND touched = ?",
                (self.due, all(state.ended for state in self.states), name, self.target.touched),
            )
        else:
            change.execute("DELETE FROM subject WHERE name = ? AND touched = ?", (name, self.target.touched))
        if self.key:
            change.execute(_KNOW, (self.key, self.etag, name))


def store_name(storage: StorageSettings) -> str:
    """Return a name for a store, so that an index is not taken for that of another."""
    return f"{storage.url} {storage.endpoint or ''}".strip()


def open_index(path: Path, store: str) -> Index | None:
    """Open the index of a store, by `store_name`; None if there is none of this version that can be read."""
    if not path.is_file():
        return None
    try:
        return _of_store(Index(path, _connected(path)), store)
    except sqlite3.Error:
        return None


def make_index(path: Path, store: str) -> Index:
    """Open the index of a store, or make it anew, readable only by its owner.

    Raises OSError, sqlite3.Error.
    """
    if found := open_index(path, store):
        return found
    remove_index(path)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    connection = _connected(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
    index = Index(path, connection)
    index.note("store", store)
    index.note("made", secrets.token_hex(8))
    return index


def ask(index: Index, question: Callable[[Index], T]) -> T | None:
    """Return the answer; None if there is none now. A damaged file is removed: its keeper makes it anew."""
    try:
        return question(index)
    except sqlite3.OperationalError:
        return None
    except sqlite3.DatabaseError:
        remove_index(index.path)
        return None


def remove_index(path: Path) -> None:
    """Remove the file, with what SQLite keeps beside it."""
    for ending in ("", "-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=_BUSY_S,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA synchronous = NORMAL")  # what a crash of the machine loses is found again
    return connection


def _of_store(index: Index, store: str) -> Index | None:
    (version,) = index._rows("PRAGMA user_version")[0]
    if version == SCHEMA and index.fact("store") == store:
        return index
    index.close()
    return None


def _note(change: sqlite3.Connection, name: str, value: str) -> None:
    change.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))


def _touch(change: sqlite3.Connection, subject: str, due: float) -> None:
    change.execute(
        "INSERT INTO subject (name, due) VALUES (?1, ?2)"
        " ON CONFLICT (name) DO UPDATE SET due = MIN(due, ?2), touched = touched + 1, rests = 0",
        (subject, due),
    )


def _row(subject: str, state: SlideState) -> tuple[object, ...]:
    letter = state.letter
    data = letter.event.data if letter and letter.event and letter.worker == GATEWAY else None
    refused = data.content_id if isinstance(data, SlideScanned) else ""
    place = (subject, state.state, state.ended, state.scanned_at, state.slide_id)
    return *place, refused, state.to_text()
