"""What a broker holds and what groups have committed, read from the broker itself without our adapters."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from histgen_lib.bus import BusSettings
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event

Offsets = dict[int, int]
"""By partition: the offset of the first uncommitted record."""


@dataclass(frozen=True)
class Record:
    """A record and its position; `event` is None if it is not a valid event."""

    topic: str
    part: int
    offset: int
    event: Event | None

    def __str__(self) -> str:
        return f"{self.topic}/{self.part}/{self.offset}"


class BrokerLog(Protocol):
    """A broker, seen from outside."""

    def records(self, topic: str) -> list[Record]:
        """List the records of a topic by partition and offset."""
        ...

    def committed(self, topic: str, group: str) -> Offsets:
        """Return the offsets that a group has committed in a topic."""
        ...

    def ends(self, topic: str) -> Offsets:
        """Return the end offsets of a topic."""
        ...


@contextmanager
def broker_log(bus: BusSettings) -> Iterator[BrokerLog]:
    """Open a broker's log."""
    if bus.url.startswith("embedded:"):
        with closing(sqlite3.connect(bus.url.removeprefix("embedded:"))) as connection:
            yield _Embedded(connection)
    else:
        yield _Kafka(bus)


def lag(bus: BusSettings, topic: str, group: str) -> int:
    """Count the records of a topic that a group has not committed; -1 if the broker does not answer."""
    try:
        with broker_log(bus) as log:
            done = log.committed(topic, group)
            return sum(end - done.get(part, 0) for part, end in log.ends(topic).items())
    except KafkaError:
        return -1


@dataclass(frozen=True)
class _Embedded:
    connection: sqlite3.Connection

    def records(self, topic: str) -> list[Record]:
        rows = self.connection.execute(
            "SELECT part, position, headers, body FROM record WHERE topic = ? ORDER BY part, position",
            (topic,),
        )
        return [Record(topic, part, at, _event(json.loads(head), body)) for part, at, head, body in rows]

    def committed(self, topic: str, group: str) -> Offsets:
        sql = "SELECT part, next FROM claim WHERE topic = ? AND grp = ?"
        return dict(self.connection.execute(sql, (topic, group)).fetchall())

    def ends(self, topic: str) -> Offsets:
        sql = "SELECT part, MAX(position) + 1 FROM record WHERE topic = ? GROUP BY part"
        return dict(self.connection.execute(sql, (topic,)).fetchall())


@dataclass(frozen=True)
class _Kafka:
    bus: BusSettings

    def records(self, topic: str) -> list[Record]:
        found = list[Record]()
        with self._consumer() as consumer:
            ends = {part: end for part, end in consumer.end_offsets(_parts(consumer, topic)).items() if end}
            consumer.assign(list(ends))
            for part in ends:
                consumer.seek_to_beginning(part)
            while any(consumer.position(part) < end for part, end in ends.items()):
                for batch in consumer.poll(1000).values():
                    found += [_record(one) for one in batch]
        return sorted(found, key=lambda record: (record.part, record.offset))

    def committed(self, topic: str, group: str) -> Offsets:
        with self._consumer(group_id=group) as consumer:
            return {part.partition: consumer.committed(part) or 0 for part in _parts(consumer, topic)}

    def ends(self, topic: str) -> Offsets:
        with self._consumer() as consumer:
            ends = consumer.end_offsets(_parts(consumer, topic))
            return {part.partition: end for part, end in ends.items()}

    @contextmanager
    def _consumer(self, **more: Any) -> Iterator[Any]:
        security = {
            name: value for name, value in self.bus.kafka if name.startswith(("sasl", "ssl", "security"))
        }
        servers = self.bus.url.removeprefix("kafka://")
        with closing(
            KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, **security, **more)
        ) as consumer:
            yield consumer


def _parts(consumer: Any, topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, part) for part in sorted(consumer.partitions_for_topic(topic) or ())]


def _record(found: Any) -> Record:
    headers = {name: (value or b"").decode(errors="replace") for name, value in found.headers}
    return Record(found.topic, found.partition, found.offset, _event(headers, found.value or b""))


def _event(headers: dict[str, str], body: bytes) -> Event | None:
    try:
        return Event.read(headers, body)
    except InvalidInputError:
        return None
