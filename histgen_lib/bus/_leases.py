"""A subscription to a broker that knows nothing but who may have which partition: leases, not connections.

`Claims` is that broker, seen by one member: a SQLite file (`_embedded`) or memory (`histgen_lib.testing`).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from histgen_lib.bus._aside import Aside
from histgen_lib.bus._port import Delivery, Reason, damaged, delivery
from histgen_lib.errors import HistgenError, TransientError
from histgen_lib.events import Event

_LEAST_LOOK_S, _MOST_LOOK_S = 0.01, 0.5
"""How often a waiting member looks for changes: the more rarely, the longer ago its last record was. A look
costs some microseconds."""
_WATCH_S, _BEAT_S = 1.0, 3.0
"""How often, at most, it also looks for leases that ran out, and renews its own."""

Place = tuple[int, int | None]
"""A partition, and the offset at which the group has to stand while the partition is still ours."""
Read = tuple[int, int, int | None]
"""A partition with records that were read but not finished: its number, the lowest of these records, and the
offset from which to read on (None: not now)."""
Row = tuple[int, int, int, bytes, bytes]
"""A record: partition, the group's next offset there, the record's own offset, headers as JSON, body."""


class Claims(Protocol):
    """One member's view of a group on a topic. Each method is one transaction; all raise as `Subscription`.

    Times are the caller's, in seconds, by a clock that all members share.
    """

    def version(self) -> int:
        """Return a number that changes when another member or a publisher has changed something."""
        ...

    def attend(self, now: float, in_flight: Place | None) -> None:
        """Join, or renew the lease; share the partitions anew if a member came or went.

        The place of the record in flight is marked busy again if it is still ours.
        """
        ...

    def leave(self, now: float) -> None:
        """Leave, and have the others take over."""
        ...

    def someone_expired(self, now: float) -> bool:
        """Return whether a member's lease has run out."""
        ...

    def waiting(self, read: Sequence[Read]) -> Row | None:
        """Find the oldest record of this member's partitions that is neither finished nor read.

        An entry of `read` counts only while its lowest record is still the group's next one.
        """
        ...

    def hold(self, place: Place, *, busy: bool) -> bool:
        """Note whether a record of our partition is in flight; return False if the place is not ours.

        It is ours if this member has the partition, and its lowest unfinished record is the group's next one.
        """
        ...

    def finish(self, place: Place, next: int, letter: Event | None) -> bool:
        """Commit up to `next` and publish the letter; return False, doing neither, if it is not ours."""
        ...

    def has(self, place: Place) -> bool:
        """Return whether the place is ours, as `hold` does."""
        ...

    def lag(self) -> int:
        """Count the unfinished records of this member's partitions."""
        ...

    def close(self) -> None:
        """Release what this member has opened; it is opened again when needed."""
        ...


class LeasedSubscription:
    """A `Subscription` by `Claims`. `clock`: seconds, the same for all members."""

    def __init__(
        self,
        claims: Claims,
        topic: str,
        session_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.claims, self._topic = claims, topic
        self._clock, self._sleep = clock, sleep
        self._beat_s = min(_BEAT_S, session_s / 3)
        self._watch_s = min(_WATCH_S, session_s / 10)
        self._stirred_at = clock()
        self._attended_at: float | None = None
        self._in_flight: Delivery | None = None
        self._aside = Aside()
        self._lost = False

    def next(self, timeout_s: float) -> Delivery | None:
        """See `Subscription.next`."""
        if self._in_flight is not None:
            raise ValueError(f"{self._in_flight.position} is still in flight")
        end = self._clock() + timeout_s
        while True:
            version = self.claims.version()
            self._attend()
            self._in_flight = self._take()
            if self._in_flight is not None or not self._changed(version, end):
                return self._in_flight

    def keep(self) -> bool:
        """See `Subscription.keep`."""
        self._attend()
        if self._in_flight is not None and not self._lost:
            self._lost = not self.claims.has(self._place(self._in_flight))
        return not self._lost

    def done(self, delivery: Delivery) -> bool:
        """See `Subscription.done`."""
        return self._finish(delivery, None)

    def reject(self, delivery: Delivery, reason: Reason) -> bool:
        """See `Subscription.reject`; the dead letter and the commit are one transaction."""
        return self._finish(delivery, reason.letter)

    def release(self, delivery: Delivery) -> None:
        """See `Subscription.release`."""
        if self._hand_back(delivery):
            self._aside.release(delivery)

    def defer(self, delivery: Delivery, wait_s: float) -> bool:
        """See `Subscription.defer`."""
        if self._in_flight == delivery and not self._lost and not self._aside.has_room():
            return False
        if self._hand_back(delivery):
            self._aside.defer(delivery, self._clock() + wait_s)
        return True

    def lag(self) -> int:
        """See `Subscription.lag`."""
        return self.claims.lag()

    def trouble(self) -> TransientError | None:
        """See `Subscription.trouble`: such a broker can be read as a whole, or not at all."""
        return None

    def close(self) -> None:
        """See `Subscription.close`. If the broker is unavailable, the lease runs out by itself."""
        if self._attended_at is not None:
            with contextlib.suppress(HistgenError):
                self.claims.leave(self._clock())
        self._attended_at = None
        self._aside.forget()
        self.claims.close()

    def _attend(self) -> None:
        """Renew the lease when it is time, and see to members whose lease has run out."""
        now = self._clock()
        fresh = self._attended_at is not None and now - self._attended_at < self._beat_s
        if not fresh or self.claims.someone_expired(now):
            self.claims.attend(now, self._place(self._in_flight) if self._in_flight else None)
            self._attended_at = now

    def _take(self) -> Delivery | None:
        return self._again(in_turn=True) or self._new() or self._again()

    def _again(self, *, in_turn: bool = False) -> Delivery | None:
        """Take the next of the records that were read."""
        while (found := self._aside.again(self._clock(), in_turn=in_turn)) is not None:
            if self._hold(found, busy=True):
                self._aside.lend(found)
                return found
        return None

    def _new(self) -> Delivery | None:
        """Read on until there is a record that does not wait behind others."""
        while (found := self._next_new()) is not None:
            self._aside.take(found)
            if (taken := self._again(in_turn=True)) is not None:
                return taken
        return None

    def _next_new(self) -> Delivery | None:
        found = self.claims.waiting(self._aside.read())
        if found is None:
            return None
        part, next, offset, headers, body = found
        if self._aside.floor(part) != next:  # others have had the partition meanwhile
            self._aside.forget([part])
        return _read(self._topic, part, offset, headers, body)

    def _changed(self, version: int, end: float) -> bool:
        """Wait until there may be a record, or a look at the leases is due; False when the time is over."""
        watch_at = self._clock() + self._watch_s
        while (now := self._clock()) < end:
            due_in_s = self._aside.due() - now
            if self.claims.version() != version or now > watch_at or due_in_s <= 0:
                return True
            look_s = max(_LEAST_LOOK_S, min(_MOST_LOOK_S, (now - self._stirred_at) / 40))
            self._sleep(min(look_s, end - now, due_in_s))
        return False

    def _finish(self, delivery: Delivery, letter: Event | None) -> bool:
        if self._in_flight != delivery:
            return False
        ours = self.claims.finish(self._place(delivery), self._aside.floor_after(delivery), letter)
        if ours:
            self._aside.finish(delivery)
        else:
            self._aside.forget([delivery.partition])
        self._forget()
        return ours

    def _hand_back(self, delivery: Delivery) -> bool:
        """End the flight of the record in flight; return False if it was no longer ours."""
        if self._in_flight != delivery:
            return False
        ours = self._hold(delivery, busy=False)
        self._forget()
        return ours

    def _hold(self, delivery: Delivery, *, busy: bool) -> bool:
        """Note whether a record is in flight; if its partition is not ours any more, forget the partition."""
        ours = self.claims.hold(self._place(delivery), busy=busy)
        if not ours:
            self._aside.forget([delivery.partition])
        return ours

    def _place(self, delivery: Delivery) -> Place:
        return delivery.partition, self._aside.floor(delivery.partition)

    def _forget(self) -> None:
        self._in_flight, self._lost = None, False
        self._stirred_at = self._clock()


def _read(topic: str, part: int, offset: int, headers: bytes, body: bytes) -> Delivery:
    """Read the event in a record, whatever became of it on the disk."""
    try:
        found = json.loads(headers)
        if not isinstance(found, dict):
            raise ValueError
    except (ValueError, RecursionError):
        return Delivery(topic, part, offset, body, unreadable=damaged("its headers are no JSON object"))
    return delivery(topic, part, offset, found, body)
