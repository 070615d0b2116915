"""The embedded broker: publisher and subscription over one SQLite file that several processes share."""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from histgen_lib.bus import BusSettings, Delivery, Reason
from histgen_lib.bus._aside import Aside
from histgen_lib.bus._embedded_group import Member
from histgen_lib.bus._embedded_log import Log, append
from histgen_lib.bus._records import damaged, delivery, sized
from histgen_lib.errors import HistgenError, TransientError
from histgen_lib.events import DEAD_LETTER, Event

_LEAST_LOOK_S, _MOST_LOOK_S = 0.01, 0.5
"""How often a waiting member looks whether the file has changed: the more rarely, the longer ago its last
record is. A look costs some microseconds."""
_WATCH_S, _BEAT_S = 1.0, 3.0
"""How often, at most, it looks besides whether a lease has run out, and renews its own."""


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


class EmbeddedSubscription:
    """A `Subscription` to a topic in the file. `clock`: seconds, the same for all processes here."""

    def __init__(
        self,
        settings: BusSettings,
        path: Path,
        topic: str,
        group: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._clock, self._topic = Log(path), clock, topic
        self._partitions = settings.partitions
        self._me = Member(group, topic, secrets.token_hex(8), settings.session_s, settings.partitions)
        self._beat_s = min(_BEAT_S, settings.session_s / 3)
        self._watch_s = min(_WATCH_S, settings.session_s / 10)
        self._stirred_at = time.monotonic()
        self._attended_at: float | None = None
        self._in_flight: Delivery | None = None
        self._aside = Aside()
        self._lost = False

    def next(self, timeout_s: float) -> Delivery | None:
        """See `Subscription.next`."""
        if self._in_flight is not None:
            raise ValueError(f"{self._in_flight.position} is still in flight")
        end = time.monotonic() + timeout_s
        while True:
            version = self._log.version()
            self._attend()
            self._in_flight = self._take()
            if self._in_flight is not None or not self._changed(version, end):
                return self._in_flight

    def keep(self) -> bool:
        """See `Subscription.keep`."""
        self._attend()
        if self._in_flight is not None and not self._lost:
            with self._log.read() as connection:
                self._lost = not self._me.has(connection, *self._place(self._in_flight))
        return not self._lost

    def done(self, delivery: Delivery) -> bool:
        """See `Subscription.done`."""
        return self._finish(delivery, None)

    def reject(self, delivery: Delivery, reason: Reason) -> bool:
        """See `Subscription.reject`; the dead letter and the commit are one transaction."""
        return self._finish(delivery, reason.letter)

    def release(self, delivery: Delivery) -> None:
        """See `Subscription.release`."""
        if self._let_go(delivery):
            self._aside.release(delivery)

    def defer(self, delivery: Delivery, wait_s: float) -> bool:
        """See `Subscription.defer`."""
        if self._in_flight == delivery and not self._lost and not self._aside.has_room():
            return False
        if self._let_go(delivery):
            self._aside.defer(delivery, self._clock() + wait_s)
        return True

    def lag(self) -> int:
        """See `Subscription.lag`."""
        with self._log.read() as connection:
            return self._me.lag(connection)

    def trouble(self) -> TransientError | None:
        """See `Subscription.trouble`: a file is there as a whole, or not at all."""
        return None

    def close(self) -> None:
        """See `Subscription.close`. Where the file is away, the lease runs out by itself."""
        if self._attended_at is not None:
            with contextlib.suppress(HistgenError), self._log.write(durable=False) as connection:
                self._me.leave(connection, self._clock())
        self._attended_at = None
        self._aside.forget()
        self._log.close()

    def _attend(self) -> None:
        """Renew the lease when it is time, and see to members whose lease has run out."""
        now = self._clock()
        if self._attended_at is not None and now - self._attended_at < self._beat_s:
            with self._log.read() as connection:
                if not self._me.someone_expired(connection, now):
                    return
        with self._log.write(durable=False) as connection:
            self._me.attend(connection, now)
            if self._in_flight is not None:  # it may have been lost and come back
                self._me.hold(connection, *self._place(self._in_flight), busy=True)
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
        with self._log.read() as connection:
            found = self._me.waiting(connection, self._aside.read())
        if found is None:
            return None
        part, next, offset, headers, body = found
        if self._aside.floor(part) != next:  # others have had the partition meanwhile
            self._aside.forget([part])
        return _read(self._topic, part, offset, headers, body)

    def _changed(self, version: int, end: float) -> bool:
        """Wait till there may be a record, or a look at the leases is due; False when the time is over."""
        watch_at = time.monotonic() + self._watch_s
        while (now := time.monotonic()) < end:
            due_in_s = self._aside.due() - self._clock()
            if self._log.version() != version or now > watch_at or due_in_s <= 0:
                return True
            look_s = max(_LEAST_LOOK_S, min(_MOST_LOOK_S, (now - self._stirred_at) / 40))
            time.sleep(min(look_s, end - now, due_in_s))
        return False

    def _finish(self, delivery: Delivery, letter: Event | None) -> bool:
        if self._in_flight != delivery:
            return False
        with self._log.write() as connection:
            ours = self._me.finish(connection, *self._place(delivery), self._aside.floor_after(delivery))
            if ours and letter is not None:
                append(
                    connection,
                    DEAD_LETTER,
                    letter.key,
                    letter.headers(),
                    letter.body(),
                    partitions=self._partitions,
                )
        if ours:
            self._aside.finish(delivery)
        else:
            self._aside.forget([delivery.partition])
        self._forget()
        return ours

    def _let_go(self, delivery: Delivery) -> bool:
        """Have the record in flight so no longer; False if it was not ours any more."""
        if self._in_flight != delivery:
            return False
        ours = self._hold(delivery, busy=False)
        self._forget()
        return ours

    def _hold(self, delivery: Delivery, *, busy: bool) -> bool:
        """Say whether a record is in flight; where its partition is not ours any more, forget that."""
        with self._log.write(durable=False) as connection:
            ours = self._me.hold(connection, *self._place(delivery), busy=busy)
        if not ours:
            self._aside.forget([delivery.partition])
        return ours

    def _place(self, delivery: Delivery) -> tuple[int, int | None]:
        """Return the partition, and the offset that the group has to be at while it is ours."""
        return delivery.partition, self._aside.floor(delivery.partition)

    def _forget(self) -> None:
        self._in_flight, self._lost = None, False
        self._stirred_at = time.monotonic()


def _read(topic: str, part: int, offset: int, headers: bytes, body: bytes) -> Delivery:
    """Read the event in a row, whatever became of it on the disk."""
    try:
        found = json.loads(headers)
        if not isinstance(found, dict):
            raise ValueError
    except (ValueError, RecursionError):
        return Delivery(topic, part, offset, body, unreadable=damaged("its headers are no JSON object"))
    return delivery(topic, part, offset, found, body)
