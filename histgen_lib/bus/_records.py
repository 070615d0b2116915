"""What the adapters do alike with a record's headers and bytes."""

from __future__ import annotations

from collections.abc import Mapping

from histgen_lib.bus import Delivery
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event

_MOST_BYTES = 900_000
"""A Kafka broker as it comes takes 1 MiB; the embedded one would take more, and then not be the same."""


def sized(body: bytes) -> bytes:
    """Return `body`. Raises InvalidInputError("event-too-large")."""
    if len(body) > _MOST_BYTES:
        raise InvalidInputError(
            "event-too-large",
            f"An event of {len(body)} bytes is more than a broker takes ({_MOST_BYTES}).",
            hint="Events carry where things lie, not the things: put those into object storage.",
        )
    return body


def delivery(topic: str, partition: int, offset: int, headers: Mapping[str, str], body: bytes) -> Delivery:
    """Read the event in a record; a record that is no event of ours is delivered with the reason.

    More than we could send on is not taken apart: what that takes in memory is bounded by the size.
    """
    try:
        event = Event.read(headers, sized(body))
    except InvalidInputError as reason:
        return Delivery(topic, partition, offset, body, unreadable=reason)
    return Delivery(topic, partition, offset, body, event=event)


def damaged(why: str, offsets: int = 1) -> InvalidInputError:
    """Say why a record cannot be read, and for how many offsets it stands."""
    many = f" It stands for {offsets} offsets, its own the first." if offsets > 1 else ""
    return InvalidInputError(
        "record-damaged",
        f"A record on the broker is damaged and cannot be read: {why}.{many}",
        hint="Look at the broker's disk. What the record told of is announced again by histgen replay "
        "--unfinished, or by histgen backfill.",
    )
