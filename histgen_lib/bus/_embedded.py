"""The embedded broker: a publisher, and consumer groups, over one SQLite file that several processes share.

Every change is one transaction, so the member that the file names has the partition: taking a record and
finishing it check that in the same transaction. Partitions without a record in flight may therefore change
hands at any moment, even those with records set aside.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from histgen_lib.bus._embedded_log import Log, append, ensure_topic
from histgen_lib.bus._leases import LeasedSubscription, Place, Read, Row
from histgen_lib.bus._port import BusSettings, Waiting, sized, time_of
from histgen_lib.bus._sharing import holders_of
from histgen_lib.events import DEAD_LETTER, Event

_ALIVE = "expires > :now AND expires <= :now + session"
"""Leases end by the machine's monotonic clock. After a reboot it starts again, and old leases seem to last
longer than any session: they count as expired."""
_OURS = " WHERE grp = :grp AND topic = :topic AND holder = :id AND part = :part AND next = :floor"


class EmbeddedPublisher:
    """A `Publisher` into the file."""

    def __init__(self, settings: BusSettings, path: Path) -> None:
        self._partitions, self._log, self._lock = settings.partitions, Log(path), threading.Lock()

    def publish(self, topic: str, key: str, event: Event) -> None:
        """See `Publisher.publish`."""
        self._append(topic, key, event.headers(), event.body())

    def publish_raw(self, topic: str, key: str, body: bytes) -> None:
        """See `Publisher.publish_raw`."""
        self._append(topic, key, {}, body)

    def close(self) -> None:
        """See `Publisher.close`."""
        with self._lock:
            self._log.close()

    def _append(self, topic: str, key: str, headers: Mapping[str, str], body: bytes) -> None:
        with self._lock, self._log.write() as connection:
            append(connection, topic, key, headers, sized(body), partitions=self._partitions)


class EmbeddedBacklog:
    """A `Backlog` of the file, which keeps no time of its own: a record was published when its event says."""

    def __init__(self, path: Path) -> None:
        self._log = Log(path)

    def waiting(self, topic: str, group: str) -> dict[int, Waiting]:
        """See `Backlog.waiting`."""
        with self._log.read() as connection:
            found = connection.execute("SELECT partitions FROM topic WHERE name = ?", (topic,)).fetchone()
            partitions = range(found[0] if found else 0)
            return {part: _waiting(connection, topic, group, part) for part in partitions}

    def close(self) -> None:
        """See `Backlog.close`."""
        self._log.close()


def _waiting(connection: sqlite3.Connection, topic: str, group: str, part: int) -> Waiting:
    """Look at both ends of what is not finished: no cheaper look counts all that lies between."""
    sql = (
        "SELECT position, CAST(headers AS BLOB) FROM record WHERE topic = ?2 AND part = ?3 AND position >="
        " COALESCE((SELECT next FROM claim WHERE grp = ?1 AND topic = ?2 AND part = ?3), 0)"
    )
    place = (group, topic, part)
    first = connection.execute(f"{sql} ORDER BY position LIMIT 1", place).fetchone()
    if first is None:
        return Waiting(0)
    last = connection.execute(f"{sql} ORDER BY position DESC LIMIT 1", place).fetchone()
    return Waiting(last[0] - first[0] + 1, time_of(first[1]))


def embedded_subscription(
    settings: BusSettings,
    path: Path,
    topic: str,
    group: str,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> LeasedSubscription:
    """Make a `Subscription` to a topic in the file. `clock`: seconds, the same for all processes here."""
    member = Member(Log(path), topic, group, partitions=settings.partitions, session_s=settings.session_s)
    return LeasedSubscription(member, topic, settings.session_s, clock=clock, sleep=sleep)


class Member:
    """One member of a group on a topic: its `Claims`, kept in the broker's file."""

    def __init__(self, log: Log, topic: str, group: str, *, partitions: int, session_s: float) -> None:
        self.log = log
        self._topic, self._group, self._id = topic, group, secrets.token_hex(8)
        self._partitions, self._session_s = partitions, session_s
        self._keys = {"grp": group, "topic": topic, "id": self._id, "session": session_s}

    def version(self) -> int:
        """See `Claims.version`."""
        return self.log.version()

    def close(self) -> None:
        """See `Claims.close`."""
        self.log.close()

    def attend(self, now: float, in_flight: Place | None) -> None:
        """See `Claims.attend`."""
        with self.log.write(durable=False) as connection:
            self._run(
                connection,
                "INSERT INTO member VALUES (:grp, :topic, :id, :expires, :session)"
                " ON CONFLICT (grp, topic, id) DO UPDATE SET expires = :expires, session = :session",
                expires=now + self._session_s,
            )
            partitions = ensure_topic(connection, self._topic, self._partitions)
            connection.executemany(  # a new group begins with the first record that is still there
                "INSERT OR IGNORE INTO claim (grp, topic, part, next) VALUES (?1, ?2, ?3, COALESCE("
                "(SELECT MIN(position) FROM record WHERE topic = ?2 AND part = ?3), 0))",
                [(self._group, self._topic, part) for part in range(partitions)],
            )
            self._reshare(connection, now)
            if in_flight is not None:  # it may have been lost and come back
                self._hold(connection, in_flight, busy=True)

    def leave(self, now: float) -> None:
        """See `Claims.leave`."""
        with self.log.write(durable=False) as connection:
            self._run(connection, "DELETE FROM member WHERE grp = :grp AND topic = :topic AND id = :id")
            self._reshare(connection, now)

    def someone_expired(self, now: float) -> bool:
        """See `Claims.someone_expired`."""
        sql = f"SELECT 1 FROM member WHERE grp = :grp AND topic = :topic AND NOT ({_ALIVE}) LIMIT 1"
        with self.log.read() as connection:
            return self._run(connection, sql, now=now).fetchone() is not None

    def waiting(self, read: Sequence[Read]) -> Row | None:
        """See `Claims.waiting`.

        Headers and body are cast to bytes: SQLite holds a column to no type, and Python refuses wrong UTF-8.
        """
        sql = (
            "SELECT r.part, c.next, r.position, CAST(r.headers AS BLOB), CAST(r.body AS BLOB) FROM claim c"
            " LEFT JOIN json_each(:read) s ON json_extract(s.value, '$[0]') = c.part"
            " AND json_extract(s.value, '$[1]') = c.next"
            " CROSS JOIN record r ON r.topic = c.topic AND r.part = c.part AND r.position"
            " = CASE WHEN s.value IS NULL THEN c.next ELSE json_extract(s.value, '$[2]') END"
            " WHERE c.grp = :grp AND c.topic = :topic AND c.holder = :id ORDER BY r.seq LIMIT 1"
        )
        with self.log.read() as connection:
            found: Row | None = self._run(connection, sql, read=json.dumps(read)).fetchone()
        return found

    def hold(self, place: Place, *, busy: bool) -> bool:
        """See `Claims.hold`."""
        with self.log.write(durable=False) as connection:
            return self._hold(connection, place, busy=busy)

    def finish(self, place: Place, next: int, letter: Event | None) -> bool:
        """See `Claims.finish`."""
        sql = "UPDATE claim SET next = :next, busy = 0" + _OURS
        part, floor = place
        with self.log.write() as connection:
            ours = self._run(connection, sql, part=part, floor=floor, next=next).rowcount == 1
            if ours and letter is not None:
                headers, body = letter.headers(), letter.body()
                append(connection, DEAD_LETTER, letter.key, headers, body, partitions=self._partitions)
        return ours

    def has(self, place: Place) -> bool:
        """See `Claims.has`."""
        part, floor = place
        with self.log.read() as connection:
            found = self._run(connection, "SELECT 1 FROM claim" + _OURS, part=part, floor=floor)
            return found.fetchone() is not None

    def lag(self) -> int:
        """See `Claims.lag`."""
        sql = (
            "SELECT COALESCE(SUM(1 + (SELECT MAX(position) FROM record r"
            " WHERE r.topic = c.topic AND r.part = c.part) - c.next), 0)"
            " FROM claim c WHERE c.grp = :grp AND c.topic = :topic AND c.holder = :id"
        )
        with self.log.read() as connection:
            return int(self._run(connection, sql).fetchone()[0])

    def _hold(self, connection: sqlite3.Connection, place: Place, *, busy: bool) -> bool:
        part, floor = place
        sql = "UPDATE claim SET busy = :busy" + _OURS
        return self._run(connection, sql, busy=busy, part=part, floor=floor).rowcount == 1

    def _reshare(self, connection: sqlite3.Connection, now: float) -> None:
        self._run(
            connection, f"DELETE FROM member WHERE grp = :grp AND topic = :topic AND NOT ({_ALIVE})", now=now
        )
        alive = self._run(connection, "SELECT id FROM member WHERE grp = :grp AND topic = :topic").fetchall()
        sql = "SELECT part, holder, busy FROM claim WHERE grp = :grp AND topic = :topic"
        claims = self._run(connection, sql).fetchall()
        holders = holders_of(claims, [id for (id,) in alive])
        connection.executemany(
            "UPDATE claim SET holder = ?, busy = 0 WHERE grp = ? AND topic = ? AND part = ?",
            [
                (holders.get(part), self._group, self._topic, part)
                for part, holder, _ in claims
                if holders.get(part) != holder
            ],
        )

    def _run(self, connection: sqlite3.Connection, sql: str, **values: object) -> sqlite3.Cursor:
        return connection.execute(sql, self._keys | values)
