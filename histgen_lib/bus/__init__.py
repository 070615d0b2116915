"""The port to the broker: publish events durably; take records one at a time, and finish or reject each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from histgen_lib.errors import FatalError, InvalidInputError, TransientError
from histgen_lib.events import Event

__all__ = [
    "BusSettings",
    "Delivery",
    "Publisher",
    "Reason",
    "Subscription",
    "finished_records",
    "open_publisher",
    "open_subscription",
]


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
    TransientError("bus-unavailable") when the broker is away, and may be called again; membership, the record
    in flight and those set aside survive this where the broker allows it.
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
class BusSettings:
    """`url`: "embedded:/path/to/bus.db" or "kafka://host:port[,host:port]".

    `partitions`: of topics created here. `session_s`: how long a silent member keeps its partitions. `kafka`:
    further settings, passed to kafka-python as they are (security_protocol, sasl_mechanism, ssl_cafile, …).
    """

    url: str
    partitions: int = 12
    session_s: float = 10.0
    kafka: tuple[tuple[str, str | int | bool], ...] = field(default=(), repr=False)  # may hold a password


def open_publisher(settings: BusSettings) -> Publisher:
    """Return a publisher, which connects when first used. Raises FatalError("bus-url")."""
    if _scheme(settings) == "embedded":
        from histgen_lib.bus._embedded import EmbeddedPublisher

        return EmbeddedPublisher(settings, _path(settings))
    from histgen_lib.bus._kafka_client import KafkaPublisher

    return KafkaPublisher(settings, _servers(settings))


def open_subscription(settings: BusSettings, topic: str, group: str) -> Subscription:
    """Return a member of `group` on `topic`; when first used, it joins and creates a missing topic.

    Raises as `open_publisher`.
    """
    if _scheme(settings) == "embedded":
        from histgen_lib.bus._embedded import embedded_subscription

        return embedded_subscription(settings, _path(settings), topic, group)
    from histgen_lib.bus._kafka import KafkaSubscription

    return KafkaSubscription(settings, _servers(settings), topic, group)


def finished_records(settings: BusSettings, before: datetime, *, remove: bool) -> Iterator[tuple[str, int]]:
    """Yield topic and size in bytes of records published `before` that every group has finished.

    With `remove`, each has been removed when it is yielded. Kafka removes records by its own rules, so
    nothing is yielded for it. Raises as `Publisher.publish`.
    """
    if _scheme(settings) == "embedded":
        from histgen_lib.bus import _embedded_log

        yield from _embedded_log.finished_records(_path(settings), before, remove=remove)


def _scheme(settings: BusSettings) -> str:
    scheme, colon, rest = settings.url.partition(":")
    if scheme not in {"embedded", "kafka"} or not colon or not rest.strip("/"):
        raise _unusable()
    return scheme


def _path(settings: BusSettings) -> Path:
    return Path(settings.url.removeprefix("embedded:")).absolute()


def _servers(settings: BusSettings) -> list[str]:
    """Split "kafka://a:1,b:2"; a host without a port has Kafka's own."""
    names = settings.url.removeprefix("kafka:").removeprefix("//").rstrip("/").split(",")
    servers = [name if re.search(r":\d+$", name) else f"{name}:9092" for name in names]
    if not all(re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}", server) for server in servers):
        raise _unusable()
    return servers


def _unusable() -> FatalError:
    return FatalError(
        "bus-url",
        "The broker's URL cannot be used.",
        hint='HISTGEN_BUS is "embedded:/path/to/bus.db" or "kafka://host:port[,host:port]".',
    )
