"""A broker in memory: topics, partitions by key, consumer groups with leases."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from histgen_lib.bus import Backlog, Subscription, Waiting
from histgen_lib.bus._leases import LeasedSubscription, Place, Read, Row
from histgen_lib.bus._port import sized, time_of
from histgen_lib.bus._sharing import holders_of
from histgen_lib.events import DEAD_LETTER, Event


@dataclass(frozen=True)
class _Record:
    number: int
    headers: bytes
    body: bytes


@dataclass
class _Claim:
    """What a group has of a partition: `next` is the first record that nobody has finished."""

    next: int = 0
    holder: str | None = None
    busy: bool = False


@dataclass
class _Group:
    """Members with the end of their leases, and a claim for each partition."""

    expires: dict[str, float] = field(default_factory=dict)
    claims: list[_Claim] = field(default_factory=list)


class MemoryBus:
    """A broker in this process; also its own `Publisher`, and `subscribe` makes a `Subscription`.

    Topics are made with `partitions` when first used. `clock`: seconds, for leases and deferred records.
    `published` lists the events in order, dead letters included. Set `error` to have every call raise it, as
    a broker does that is unavailable.
    """

    def __init__(self, *, partitions: int = 12, clock: Callable[[], float] = time.monotonic) -> None:
        self.error: Exception | None = None
        self.published: list[Event] = []
        self.version = 0
        self.partitions, self.clock = partitions, clock
        self._lock = threading.RLock()
        self._topics: dict[str, list[list[_Record]]] = {}
        self._groups: dict[tuple[str, str], _Group] = defaultdict(_Group)
        self._numbers, self._names = itertools.count(), itertools.count()

    def publish(self, topic: str, key: str, event: Event) -> None:
        """See `Publisher.publish`."""
        with self.changing():
            self._append(topic, key, event.headers(), event.body())
            self.published.append(event)

    def publish_raw(self, topic: str, key: str, body: bytes) -> None:
        """See `Publisher.publish_raw`."""
        with self.changing():
            self._append(topic, key, {}, body)

    def close(self) -> None:
        """See `Publisher.close`; what was published stays."""

    def subscribe(
        self,
        topic: str,
        group: str,
        *,
        session_s: float = 10.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Subscription:
        """Return a new member of `group` on `topic`; it joins when first used."""
        claims = _MemoryClaims(self, topic, group, f"member-{next(self._names)}", session_s)
        return LeasedSubscription(claims, topic, session_s, clock=self.clock, sleep=sleep)

    def backlog(self) -> Backlog:
        """Return what tells how much waits for a group."""
        return _MemoryBacklog(self)

    def waiting(self, topic: str, group: str) -> dict[int, Waiting]:
        """See `Backlog.waiting`."""
        with self.reading():
            claims = self._groups[topic, group].claims if (topic, group) in self._groups else []
            floors = [claim.next for claim in claims]
            found = {}
            for part, records in enumerate(self._topics.get(topic, [])):
                rest = records[floors[part] :] if part < len(floors) else records
                found[part] = Waiting(len(rest), time_of(rest[0].headers) if rest else None)
            return found

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep others from changing anything. Raises `error`."""
        with self._lock:
            if self.error is not None:
                raise self.error
            yield

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep others out, and have waiting members look again afterwards. Raises `error`."""
        with self.reading():
            yield
            self.version += 1

    def records(self, topic: str) -> list[list[_Record]]:
        """Return a topic's partitions, making it if it is missing."""
        return self._topics.setdefault(topic, [[] for _ in range(self.partitions)])

    def group(self, topic: str, group: str) -> _Group:
        """Return a group, which begins with the first record of each partition."""
        found = self._groups[topic, group]
        while len(found.claims) < len(self.records(topic)):
            found.claims.append(_Claim())
        return found

    def _append(self, topic: str, key: str, headers: Mapping[str, str], body: bytes) -> None:
        parts = self.records(topic)
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
        record = _Record(next(self._numbers), json.dumps(dict(headers)).encode(), sized(body))
        parts[int.from_bytes(digest[:8], "big") % len(parts)].append(record)


class _MemoryBacklog:
    """A `Backlog` of a broker in this process."""

    def __init__(self, bus: MemoryBus) -> None:
        self.waiting = bus.waiting

    def close(self) -> None:
        """See `Backlog.close`."""


class _MemoryClaims:
    """The `Claims` of one member."""

    def __init__(self, bus: MemoryBus, topic: str, group: str, name: str, session_s: float) -> None:
        self._bus, self._topic, self._group = bus, topic, group
        self._name, self._session_s = name, session_s

    def version(self) -> int:
        with self._bus.reading():
            return self._bus.version

    def attend(self, now: float, in_flight: Place | None) -> None:
        with self._bus.changing():
            group = self._mine()
            group.expires[self._name] = now + self._session_s
            self._reshare(group, now)
            if in_flight is not None:
                self.hold(in_flight, busy=True)

    def leave(self, now: float) -> None:
        with self._bus.changing():
            group = self._mine()
            group.expires.pop(self._name, None)
            self._reshare(group, now)

    def someone_expired(self, now: float) -> bool:
        with self._bus.reading():
            return any(end <= now for end in self._mine().expires.values())

    def waiting(self, read: Sequence[Read]) -> Row | None:
        with self._bus.reading():
            parts, known = self._bus.records(self._topic), {part: rest for part, *rest in read}
            found: list[tuple[_Record, int, int, int]] = []
            for part, claim in enumerate(self._mine().claims):
                floor, reached = known.get(part, (None, None))
                place = reached if floor == claim.next and part in known else claim.next
                if claim.holder == self._name and place is not None and place < len(parts[part]):
                    found.append((parts[part][place], part, claim.next, place))
            if not found:
                return None
            record, part, next, place = min(found, key=lambda one: one[0].number)
            return part, next, place, record.headers, record.body

    def hold(self, place: Place, *, busy: bool) -> bool:
        with self._bus.changing():
            claim = self._ours(place)
            if claim is not None:
                claim.busy = busy
            return claim is not None

    def finish(self, place: Place, next: int, letter: Event | None) -> bool:
        with self._bus.changing():
            claim = self._ours(place)
            if claim is None:
                return False
            if letter is not None:
                self._bus.publish(DEAD_LETTER, letter.key, letter)
            claim.next, claim.busy = next, False
            return True

    def has(self, place: Place) -> bool:
        with self._bus.reading():
            return self._ours(place) is not None

    def lag(self) -> int:
        with self._bus.reading():
            pairs = zip(self._mine().claims, self._bus.records(self._topic), strict=True)
            return sum(len(part) - claim.next for claim, part in pairs if claim.holder == self._name)

    def close(self) -> None:
        pass

    def _mine(self) -> _Group:
        return self._bus.group(self._topic, self._group)

    def _ours(self, place: Place) -> _Claim | None:
        part, floor = place
        claim = self._mine().claims[part]
        return claim if (claim.holder, claim.next) == (self._name, floor) else None

    def _reshare(self, group: _Group, now: float) -> None:
        """Share the partitions among those whose lease has not run out."""
        group.expires = {name: end for name, end in group.expires.items() if end > now}
        claims = [(part, claim.holder, claim.busy) for part, claim in enumerate(group.claims)]
        holders = holders_of(claims, group.expires)
        for part, claim in enumerate(group.claims):
            if claim.holder != holders.get(part):
                claim.holder, claim.busy = holders.get(part), False
