"""Reading and sizing records: what all adapters do alike."""

from __future__ import annotations

from collections.abc import Mapping

from histgen_lib.bus import Delivery
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event

_MOST_BYTES = 900_000
"""A Kafka broker takes 1 MiB by default; the embedded one would take more, but all brokers behave alike."""


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


def damaged(why: str, offsets: int = 1) -> InvalidInputError:
    """Make the error for a record that cannot be read: InvalidInputError("record-damaged")."""
    many = f" It stands for {offsets} offsets, of which its own is the first." if offsets > 1 else ""
    return InvalidInputError(
        "record-damaged",
        f"A record on the broker is damaged and cannot be read: {why}.{many}",
        hint="Check the broker's disk. To announce the slide again, run histgen replay --unfinished or "
        "histgen backfill.",
    )
