"""The port to the broker: publish an event durably; take events one at a time and say what became of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event

__all__ = [
    "BusSettings",
    "Delivery",
    "Publisher",
    "Reason",
    "Subscription",
    "open_publisher",
    "open_subscription",
]


@dataclass(frozen=True)
class Delivery:
    """One record, lent to this process until it says `done` or `reject`.

    Exactly one of `event` and `unreadable` is set; the latter says why the record is no event of ours. `raw` are
    the record's own bytes, for topics that carry other systems' records: they go nowhere else. `position` is the
    record's place, "topic/partition/offset".
    """

    topic: str
    partition: int
    offset: int
    raw: bytes
    event: Event | None = None
    unreadable: InvalidInputError | None = None

    @property
    def position(self) -> str:
        """The record's place in the log."""
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True)
class Reason:
    """Why an event is given up, and the dead-letter event that says so to the world."""

    code: str
    letter: Event


class Publisher(Protocol):
    """Publishes; safe to use from several threads."""

    def publish(self, topic: str, key: str, event: Event) -> None:
        """Return once the record is durable. Raises TransientError("bus-unavailable") when that is not known.

        After the error the record may be there, once or more: publish it again. Order within a key is kept.
        """
        ...

    def publish_raw(self, topic: str, key: str, body: bytes) -> None:
        """Publish bytes that are no event of ours, without headers; as `publish` otherwise."""
        ...

    def close(self) -> None:
        """Let go of the connection; what was published stays published."""
        ...


class Subscription(Protocol):
    """One member of a consumer group on one topic, with at most one record in flight. Used from one thread.

    A record is given to one member of the group at a time, in order within its partition, and again (to whoever
    has the partition then) until some member says `done` or `reject`. Records are never passed over: what follows
    a record in its partition comes only after it. All methods raise TransientError("bus-unavailable") when the
    broker is away, and may be called again; membership and the record in flight survive that where the broker
    allows it.
    """

    def next(self, timeout_s: float) -> Delivery | None:
        """Wait up to `timeout_s` for a record; None if none came. ValueError while one is in flight."""
        ...

    def keep(self) -> bool:
        """Stay a member while a job runs; call it at least every second. Returns at once.

        False once the record in flight may have been given to another member.
        """
        ...

    def done(self, delivery: Delivery) -> bool:
        """Commit the record in flight; False if it was not ours any more (then nothing was committed)."""
        ...

    def reject(self, delivery: Delivery, reason: Reason) -> bool:
        """Publish `reason.letter` to the dead-letter topic, durably, then as `done`."""
        ...

    def release(self, delivery: Delivery) -> None:
        """Hand the record in flight back, uncommitted; it is delivered again, here or elsewhere."""
        ...

    def lag(self) -> int:
        """Count the records of the partitions held here that no one has committed, the one in flight included."""
        ...

    def close(self) -> None:
        """Leave the group, so that others take over at once; an unfinished record is theirs."""
        ...


@dataclass(frozen=True)
class BusSettings:
    """`url`: "embedded:/path/to/bus.db" or "kafka://host:port[,host:port]". `partitions`: of topics made here.

    `session_s`: how long a member that gives no sign of life keeps its partitions. `kafka`: further settings
    handed to kafka-python as they are (security_protocol, sasl_mechanism, ssl_cafile, …).
    """

    url: str
    partitions: int = 12
    session_s: float = 10.0
    kafka: tuple[tuple[str, str | int | bool], ...] = ()


def open_publisher(settings: BusSettings) -> Publisher:
    """Connect. Raises FatalError("bus-url") for a URL of no known kind."""
    raise NotImplementedError


def open_subscription(settings: BusSettings, topic: str, group: str) -> Subscription:
    """Join `group` on `topic`, which is made if it is missing. Raises as `open_publisher`."""
    raise NotImplementedError
