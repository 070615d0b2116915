"""Giving room back in the embedded broker's file: records that every group has finished, and that are old.

Of each partition the last record stays, whatever its age: the next one's number follows from it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

from histgen_lib.bus._embedded_log import Log
from histgen_lib.events import DEAD_LETTER, REPORT_DRAFTED, REPORT_SIGNED

_BATCH = 500
_FINISHED = """
SELECT r.seq, r.topic, length(CAST(r.headers AS BLOB)) + length(CAST(r.body AS BLOB)) FROM record r
 WHERE r.seq > ?1 AND r.seq < ?2
   AND r.position < (SELECT MAX(l.position) FROM record l WHERE l.topic = r.topic AND l.part = r.part)
   AND r.position < COALESCE((SELECT MIN(c.next) FROM claim c WHERE c.topic = r.topic AND c.part = r.part),
                             CASE WHEN r.topic IN (?4, ?5, ?6) THEN r.position + 1 ELSE 0 END)
 ORDER BY r.seq LIMIT ?3
"""
_TOLD = (REPORT_DRAFTED, REPORT_SIGNED, DEAD_LETTER)
"""Topics of which nobody has to take anything: without a group nothing of them is unfinished."""


def finished_records(path: Path, before: datetime, *, remove: bool) -> Iterator[tuple[str, int]]:
    """Yield topic and bytes of each such record published `before`, once it is gone if it is to be removed.

    A few at a time, so that nobody waits long for the file; then the room is given back to the disk, unless
    others hold the file just then. Raises as `Log.write`.
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
    """Find some records, and remove them in the same transaction."""
    with log.write() if remove else log.read() as connection:
        rows: list[tuple[int, str, int]] = connection.execute(
            _FINISHED, (after, end, _BATCH, *_TOLD)
        ).fetchall()
        if remove:
            connection.executemany("DELETE FROM record WHERE seq = ?", [(seq,) for seq, _, _ in rows])
    return rows


def _first_young(log: Log, before: datetime) -> int:
    """Return the number of the first record that is not old; records are numbered as they came."""
    with log.read() as connection:
        last = 0
        for seq, headers in connection.execute("SELECT seq, CAST(headers AS BLOB) FROM record ORDER BY seq"):
            last = seq
            if not _is_before(headers, before):
                return int(seq)
        return last + 1


def _is_before(headers: bytes, before: datetime) -> bool:
    """Tell from an event's time; a record without one, or a damaged one, is as old as those around it."""
    try:
        return datetime.fromisoformat(json.loads(headers)["ce_time"]) < before
    except (ValueError, KeyError, TypeError, RecursionError):
        return True


def _give_back(path: Path) -> None:
    """Shrink the file, unless others are in the middle of something: then the next time does it."""
    with closing(sqlite3.connect(path, timeout=1.0, isolation_level=None)) as connection:
        try:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError:
            return
