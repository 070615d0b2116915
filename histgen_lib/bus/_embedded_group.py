"""Consumer groups of the embedded broker: who is alive, who has which partition, what is finished.

Every change is one transaction, so whoever has a partition in the file has it: taking a record and finishing
it check that in the same transaction. Partitions without a record in flight may therefore change hands at any
moment, those with records set aside, too.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from histgen_lib.bus._embedded_log import ensure_topic
from histgen_lib.bus._sharing import Holding, share

_ALIVE = "expires > :now AND expires <= :now + session"
"""A lease's end is on the machine's monotonic clock. After a reboot that starts again, and leases of old seem
to last longer than any session: they are as dead as those that ran out."""


@dataclass(frozen=True)
class Member:
    """One member of a group on a topic; its methods run in the caller's transaction."""

    group: str
    topic: str
    id: str
    session_s: float
    partitions: int
    _keys: dict[str, object] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        keys = {"grp": self.group, "topic": self.topic, "id": self.id, "session": self.session_s}
        object.__setattr__(self, "_keys", keys)

    def attend(self, connection: sqlite3.Connection, now: float) -> None:
        """Join, or stay; share the partitions anew where a member came or is gone."""
        self._run(
            connection,
            "INSERT INTO member VALUES (:grp, :topic, :id, :expires, :session)"
            " ON CONFLICT (grp, topic, id) DO UPDATE SET expires = :expires, session = :session",
            expires=now + self.session_s,
        )
        partitions = ensure_topic(connection, self.topic, self.partitions)
        connection.executemany(  # a new group begins with the first record that is still there
            "INSERT OR IGNORE INTO claim (grp, topic, part, next) VALUES (?1, ?2, ?3, COALESCE("
            "(SELECT MIN(position) FROM record WHERE topic = ?2 AND part = ?3), 0))",
            [(self.group, self.topic, part) for part in range(partitions)],
        )
        self._reshare(connection, now)

    def leave(self, connection: sqlite3.Connection, now: float) -> None:
        """Leave, and have the others take over."""
        self._run(connection, "DELETE FROM member WHERE grp = :grp AND topic = :topic AND id = :id")
        self._reshare(connection, now)

    def someone_expired(self, connection: sqlite3.Connection, now: float) -> bool:
        """Say whether a member's lease has run out."""
        sql = f"SELECT 1 FROM member WHERE grp = :grp AND topic = :topic AND NOT ({_ALIVE}) LIMIT 1"
        return self._run(connection, sql, now=now).fetchone() is not None

    def waiting(
        self, connection: sqlite3.Connection, read: Sequence[tuple[int, int, int | None]] = ()
    ) -> tuple[int, int, int, bytes, bytes] | None:
        """Find the oldest record of this member's partitions that is neither finished nor read.

        `read`: partitions with records that were read and are not finished; the lowest of these; and from
        where to read on (None: not now). It counts only where the lowest one is still the group's next one.
        Returns partition, the group's next offset, the record's own, headers, body. The last two as bytes,
        whatever they are: SQLite holds a column to no type, and Python refuses wrong UTF-8.
        """
        sql = (
            "SELECT r.part, c.next, r.position, CAST(r.headers AS BLOB), CAST(r.body AS BLOB) FROM claim c"
            " LEFT JOIN json_each(:read) s ON json_extract(s.value, '$[0]') = c.part"
            " AND json_extract(s.value, '$[1]') = c.next"
            " CROSS JOIN record r ON r.topic = c.topic AND r.part = c.part AND r.position"
            " = CASE WHEN s.value IS NULL THEN c.next ELSE json_extract(s.value, '$[2]') END"
            " WHERE c.grp = :grp AND c.topic = :topic AND c.holder = :id ORDER BY r.seq LIMIT 1"
        )
        found: tuple[int, int, int, bytes, bytes] | None = self._run(
            connection, sql, read=json.dumps(read)
        ).fetchone()
        return found

    def hold(self, connection: sqlite3.Connection, part: int, floor: int | None, *, busy: bool) -> bool:
        """Say whether a record of our partition is in flight; False if it is not ours.

        It is ours if this member has it, and its lowest unfinished record is still the group's next one.
        """
        sql = "UPDATE claim SET busy = :busy" + _OURS
        return self._run(connection, sql, busy=busy, part=part, floor=floor).rowcount == 1

    def finish(self, connection: sqlite3.Connection, part: int, floor: int | None, next: int) -> bool:
        """Commit up to `next` in a partition that is ours; False, and nothing done, if it is not."""
        sql = "UPDATE claim SET next = :next, busy = 0" + _OURS
        return self._run(connection, sql, part=part, floor=floor, next=next).rowcount == 1

    def has(self, connection: sqlite3.Connection, part: int, floor: int | None) -> bool:
        """Say whether the partition is ours, as `hold` does."""
        found = self._run(connection, "SELECT 1 FROM claim" + _OURS, part=part, floor=floor)
        return found.fetchone() is not None

    def lag(self, connection: sqlite3.Connection) -> int:
        """Count the unfinished records of this member's partitions."""
        sql = (
            "SELECT COALESCE(SUM(1 + (SELECT MAX(position) FROM record r"
            " WHERE r.topic = c.topic AND r.part = c.part) - c.next), 0)"
            " FROM claim c WHERE c.grp = :grp AND c.topic = :topic AND c.holder = :id"
        )
        return int(self._run(connection, sql).fetchone()[0])

    def _reshare(self, connection: sqlite3.Connection, now: float) -> None:
        self._run(
            connection, f"DELETE FROM member WHERE grp = :grp AND topic = :topic AND NOT ({_ALIVE})", now=now
        )
        alive = self._run(connection, "SELECT id FROM member WHERE grp = :grp AND topic = :topic").fetchall()
        sql = "SELECT part, holder, busy FROM claim WHERE grp = :grp AND topic = :topic"
        claims = self._run(connection, sql).fetchall()
        owned: dict[str, set[int]] = defaultdict(set)
        busy: dict[str, set[int]] = defaultdict(set)
        for part, holder, is_busy in claims:
            owned[holder].add(part)
            busy[holder].update({part} if is_busy else ())
        members = {id: Holding(frozenset(owned[id]), frozenset(busy[id])) for (id,) in alive}
        wanted = {part: id for id, parts in share([c[0] for c in claims], members).items() for part in parts}
        connection.executemany(
            "UPDATE claim SET holder = ?, busy = 0 WHERE grp = ? AND topic = ? AND part = ?",
            [
                (wanted.get(part), self.group, self.topic, part)
                for part, holder, _ in claims
                if wanted.get(part) != holder
            ],
        )

    def _run(self, connection: sqlite3.Connection, sql: str, **values: object) -> sqlite3.Cursor:
        return connection.execute(sql, self._keys | values)


_OURS = " WHERE grp = :grp AND topic = :topic AND holder = :id AND part = :part AND next = :floor"
