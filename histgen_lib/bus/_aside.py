"""What one member has read but not finished: set aside until due, or held back behind a record of its key.

Pure: no clock and no broker. Every adapter asks it what may be delivered, and how far a partition may be
committed. Finished records need no list: they are all that was read and is not open.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from math import inf

from histgen_lib.bus._port import Delivery

ASIDE_MOST, HELD_MOST, BYTES_MOST = 256, 64, 32 << 20
"""The most open records that a member remembers, the most of them held back in one partition, and the most
bytes: so that a key with many records cannot take all the room."""
_SOON, _NEVER = -inf, inf
"""When a record is due that waits only for earlier ones of its key; and one that is in flight."""


@dataclass
class _Open:
    """A record that was read but not finished, and when it may be delivered again."""

    delivery: Delivery
    due: float

    @property
    def key(self) -> str | None:
        """The key within which records stay in order; None for a record that is not an event of ours."""
        return self.delivery.event.key if self.delivery.event else None


@dataclass
class _Part:
    """A partition: the first offset not yet read, and the open records below it, by offset and in order."""

    reached: int
    open: dict[int, _Open] = field(default_factory=dict)

    @property
    def floor(self) -> int:
        """The lowest unfinished offset."""
        return next(iter(self.open), self.reached)

    def heads(self) -> Iterator[_Open]:
        """Yield the open records that have no other of their key before them."""
        keys: set[str] = set()
        for record in self.open.values():
            if record.key is None or record.key not in keys:
                yield record
            keys.update(() if record.key is None else (record.key,))


class Aside:
    """The open records of one member, in all its partitions. Times are the caller's."""

    def __init__(self) -> None:
        self._parts: dict[int, _Part] = {}
        self._turn_of_new = False
        self.stopped: set[int] = set()
        """Partitions whose next record would have to be held back, with no room for it: read on later."""

    def take(self, delivery: Delivery) -> None:
        """Note a record that was read: `again` returns it next or, if its key waits, after the earlier ones.

        If it has to wait and there is no room, its partition is `stopped` instead, and the record has to be
        read again. An offset below what was read before belongs to a new log: everything known of its
        partition is forgotten.
        """
        part = self._parts.get(delivery.partition)
        if part is None or delivery.offset < part.reached:
            part = self._parts[delivery.partition] = _Part(delivery.offset)
        record = _Open(delivery, _SOON)
        waits = record.key is not None and any(record.key == other.key for other in part.open.values())
        if waits and not self._has_room_in(delivery.partition, len(delivery.raw)):
            self.stopped.add(delivery.partition)
        else:
            part.reached, part.open[delivery.offset] = delivery.behind, record

    def again(self, now: float, *, in_turn: bool = False) -> Delivery | None:
        """Return the record to deliver again first; call `lend` once it is delivered.

        `in_turn`: after one that was due, none that was set aside comes before a new record.
        """
        due = [head for head in self._heads() if head.due <= now]
        if in_turn and self._turn_of_new:
            due = [head for head in due if head.due == _SOON]
        return min(due, key=lambda head: head.due).delivery if due else None

    def lend(self, delivery: Delivery) -> None:
        """Note that a record is in flight again."""
        record = self._parts[delivery.partition].open[delivery.offset]
        self._turn_of_new = record.due != _SOON
        record.due = _NEVER

    def due(self) -> float:
        """Return when the next record is due; infinity if none is."""
        return min((head.due for head in self._heads()), default=inf)

    def has_room(self) -> bool:
        """Return whether the record in flight may be set aside."""
        return self._fits(0, 0)

    def defer(self, delivery: Delivery, due: float) -> None:
        """Set the record in flight aside."""
        self._parts[delivery.partition].open[delivery.offset].due = due

    def release(self, delivery: Delivery) -> None:
        """Have the record in flight delivered again before all others."""
        self._parts[delivery.partition].open[delivery.offset].due = _SOON

    def finish(self, delivery: Delivery) -> None:
        """Remove the record in flight."""
        part = self._parts.get(delivery.partition)
        if part is not None:
            part.open.pop(delivery.offset, None)
            if not part.open:
                del self._parts[delivery.partition]
        self._go_on([delivery.partition])

    def forget(self, partitions: Collection[int] | None = None) -> None:
        """Drop what is known of partitions that are no longer ours, or of all."""
        for partition in list(self._parts) if partitions is None else partitions:
            self._parts.pop(partition, None)
        self._go_on(self.stopped if partitions is None else partitions)

    def floor(self, partition: int) -> int | None:
        """Return the lowest unfinished offset; None for a partition without open records."""
        part = self._parts.get(partition)
        return part.floor if part else None

    def floor_after(self, delivery: Delivery) -> int:
        """Return the offset that may be committed once `delivery` is finished: all before it are, too."""
        part = self._parts.get(delivery.partition)
        if part is None or delivery.offset not in part.open:
            return delivery.behind
        return next((offset for offset in part.open if offset != delivery.offset), part.reached)

    def reached(self, delivery: Delivery) -> int:
        """Return the first offset not yet read in the partition of the record in flight."""
        part = self._parts.get(delivery.partition)
        return part.reached if part else delivery.behind

    def read(self) -> list[tuple[int, int, int | None]]:
        """Return partitions with open records: number, floor, and from where to read on (None: stopped)."""
        return [
            (number, part.floor, None if number in self.stopped else part.reached)
            for number, part in self._parts.items()
        ]

    def _heads(self) -> Iterator[_Open]:
        return (head for part in self._parts.values() for head in part.heads())

    def _go_on(self, partitions: Collection[int]) -> None:
        """Have partitions read on, and also those that lacked room if there is room now."""
        self.stopped.difference_update(set(partitions))
        self.stopped -= {partition for partition in self.stopped if self._has_room_in(partition, 0)}

    def _has_room_in(self, partition: int, size: int) -> bool:
        """Return whether a record of `size` bytes can be held back."""
        held = sum(record.due == _SOON for record in self._parts[partition].open.values())
        return held < HELD_MOST and self._fits(1, size)

    def _fits(self, more: int, more_bytes: int) -> bool:
        sizes = [len(record.delivery.raw) for part in self._parts.values() for record in part.open.values()]
        return len(sizes) + more <= ASIDE_MOST and sum(sizes) + more_bytes <= BYTES_MOST
