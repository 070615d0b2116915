"""The port to the broker, and how adapters read and size records: all brokers behave alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.events import Event

_MOST_BYTES = 900_000
"""A Kafka broker takes 1 MiB by default; the embedded one would take more, but all brokers behave alike."""


@dataclass(frozen=True)
class Delivery:
    """One record, lent to this process until it calls `done` or `reject`.

    Exactly one of `event` and `unreadable` is set; the latter says why the record is not an event of ours.
    `raw` holds the record's own bytes, for topics that carry other systems' records; they go nowhere else.
    `position` is the record's place, "topic/partition/offset". `offsets`: how many offsets the record covers;
    more than one where damage hides what lies there.
    """

    topic: str
    partition: int
    offset: int
    raw: bytes
    event: Event | None = None
    unreadable: InvalidInputError | None = None
    offsets: int = 1

    @property
    def position(self) -> str:
        """The record's place in the log."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def behind(self) -> int:
        """The offset of the next record."""
        return self.offset + self.offsets


@dataclass(frozen=True)
class Reason:
    """Why an event is given up, and the dead-letter event that announces it."""

    code: str
    letter: Event


class Publisher(Protocol):
    """Publishes; safe to use from several threads."""

    def publish(self, topic: str, key: str, event: Event) -> None:
        """Return once the record is durable. Raises TransientError("bus-unavailable") if that is uncertain.

        After the error the record may have been stored, even more than once: publish it again. Order within
        a key is kept.
        """
        ...

    def publish_raw(self, topic: str, key: str, body: bytes) -> None:
        """Publish bytes that are not an event of ours, without headers; otherwise as `publish`."""
        ...

    def close(self) -> None:
        """Close the connection; what was published stays published."""
        ...


class Subscription(Protocol):
    """One member of a consumer group on one topic, with at most one record in flight. Used from one thread.

    A record is delivered to one member of the group at a time, in order within its partition, and again (to
    the member that then has the partition) until some member calls `done` or `reject`. Records are never
    skipped unless they were set aside (`defer`): the next record of a partition comes only after them. A
    damaged record is delivered, too, as `unreadable` with the code "record-damaged". All methods raise
    TransientError("bus-unavailable") when the broker is unavailable, and may be called again; membership, the
    record in flight and those set aside survive this where the broker allows it.
    """

    def next(self, timeout_s: float) -> Delivery | None:
        """Wait about `timeout_s` for a record; None if none came. ValueError while one is in flight.

        The wait is a second longer while the group's members change, and longer still if the broker is
        silent. A record that was set aside and is due comes before new ones; after it a new one has its turn,
        so that neither kind starves.
        """
        ...

    def keep(self) -> bool:
        """Stay a member while a job runs; call it at least every second.

        Returns at once, or within about a second while the group's members change. False once the record in
        flight may have been delivered to another member.
        """
        ...

    def done(self, delivery: Delivery) -> bool:
        """Finish the record in flight; False if it was no longer ours (then nothing was committed).

        It is committed once everything before it in its partition is finished.
        """
        ...

    def reject(self, delivery: Delivery, reason: Reason) -> bool:
        """Publish `reason.letter` durably to the dead-letter topic; then as `done`."""
        ...

    def release(self, delivery: Delivery) -> None:
        """Return the record in flight, uncommitted; it is delivered again, here or elsewhere."""
        ...

    def defer(self, delivery: Delivery, wait_s: float) -> bool:
        """Set the record in flight aside for about `wait_s`, so that records with other keys can pass it.

        Records with its key wait behind it. `next` delivers it again when it is due. Nothing is committed
        past it: what is finished meanwhile is remembered for as long as the partition stays here. When the
        partition moves on, the records set aside and those finished behind them come once more, to its new
        member. False if no more can be set aside (256 are): the record is then still in flight. True also if
        it was no longer ours.
        """
        ...

    def lag(self) -> int:
        """Count the uncommitted records of the partitions held here, the one in flight included."""
        ...

    def trouble(self) -> TransientError | None:
        """Return an error that names partitions held here of which the broker delivers nothing any more.

        None if all is well. Costs nothing; the other partitions go on meanwhile.
        """
        ...

    def close(self) -> None:
        """Leave the group, so that others take over at once, an unfinished record included."""
        ...


@dataclass(frozen=True)
class Waiting:
    """What a group has not finished of a partition: how many records, and since when the oldest is there.

    `oldest_at`: when that was published, in seconds since 1970; None if none waits, or if it does not say.
    """

    records: int
    oldest_at: float | None = None


class Backlog(Protocol):
    """Tells what waits for a consumer group, without joining it. Used from one thread at a time."""

    def waiting(self, topic: str, group: str) -> dict[int, Waiting]:
        """Return what waits, by partition; {} while there is no such topic, which is not made.

        Of a partition of which the group has never finished a record, all records wait. Raises as
        `Subscription`; what the broker refuses, as FatalError("bus-refused").
        """
        ...

    def close(self) -> None:
        """Close the connection; it is opened again when needed."""
        ...


@dataclass(frozen=True)
class BusSettings:
    """`url`: "embedded:/path/to/bus.db" or "kafka://host:port[,host:port]".

    `partitions`: of topics created here. `session_s`: how long a silent member keeps its partitions. `kafka`:
    further settings, passed to kafka-python as they are (security_protocol, sasl_mechanism, ssl_cafile, …).
    """

    url: str
    partitions: int = 12
    session_s: float = 10.0
    kafka: tuple[tuple[str, str | int | bool], ...] = field(default=(), repr=False)  # may hold a password


def sized(body: bytes) -> bytes:
    """Return `body`. Raises InvalidInputError("event-too-large")."""
    if len(body) > _MOST_BYTES:
        raise InvalidInputError(
            "event-too-large",
            f"An event of {len(body)} bytes is larger than a broker takes ({_MOST_BYTES}).",
            hint="Put large data into object storage, and its URI into the event.",
        )
    return body


def delivery(topic: str, partition: int, offset: int, headers: Mapping[str, str], body: bytes) -> Delivery:
    """Read the event in a record; a record that is not an event of ours is delivered with the reason.

    A record larger than we could forward is not parsed: parsing takes memory in proportion to the size.
    """
    try:
        event = Event.read(headers, sized(body))
    except InvalidInputError as reason:
        return Delivery(topic, partition, offset, body, unreadable=reason)
    return Delivery(topic, partition, offset, body, event=event)


def time_of(headers: bytes) -> float | None:
    """Return the time that an event states in its headers, as JSON; seconds since 1970, None without one."""
    try:
        return datetime.fromisoformat(json.loads(headers)["ce_time"]).timestamp()
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def damaged(why: str, offsets: int = 1) -> InvalidInputError:
    """Make the error for a record that cannot be read: InvalidInputError("record-damaged")."""
    many = f" It stands for {offsets} offsets, of which its own is the first." if offsets > 1 else ""
    return InvalidInputError(
        "record-damaged",
        f"A record on the broker is damaged and cannot be read: {why}.{many}",
        hint="Check the broker's disk. To announce the slide again, run histgen replay --unfinished or "
        "histgen backfill.",
    )
