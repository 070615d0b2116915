"""Where a Kafka broker does not find a record: the way around, and word of partitions that have none.

A broker looks for an offset from batch to batch, by their lengths. Where one of these is damaged it finds
nothing up to the next entry of its index. But a fetch that begins before the damage brings what lies behind
it, too, and one that begins behind that entry brings the rest.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from kafka import errors as kafka_errors

from histgen_lib.bus._kafka_client import raised_by_us
from histgen_lib.bus._kafka_damage import PassingRecords
from histgen_lib.errors import TransientError

_TELL_S, _TELL_AFTER, _REST_S = 10.0, 3, 60.0
"""A hole is told of when it is so old and was met so often. Where no way leads around it, one is looked for
again after the last of these times."""
_FAR = 4096
"""So many offsets before a hole a fetch begins at most."""
_SOUND = (kafka_errors.NoError, kafka_errors.OffsetOutOfRangeError)
"""Answers that kafka-python deals with."""
_DAMAGED = (
    kafka_errors.NoError,
    kafka_errors.CorruptRecordError,
    kafka_errors.InvalidRecordError,
    kafka_errors.UnknownError,
)
"""Answers of a broker that runs into damage; all others are about the partition as a whole."""


@dataclass(frozen=True)
class _Way:
    """A fetch that begins at `start` and is wanted from `floor` on.

    `lost`: what lies between that and the floor is given up. `probe`: only whether there is something.
    """

    start: int
    floor: int
    lost: int | None = None
    probe: bool = False


def _ways(wanted: int, end: int) -> Generator[_Way, bool]:
    """Yield ways around; is sent whether a fetch brought something. Those before `wanted` end by success."""
    before = 1
    while before <= _FAR and before < 2 * wanted:
        yield _Way(max(0, wanted - before), wanted)
        before *= 2
    low, high = wanted, wanted + 1
    while high < end and not (yield _Way(high, high, probe=True)):
        low, high = high, wanted + 2 * (high - wanted)
    if high < end:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if (yield _Way(middle, middle, probe=True)) else (middle, high)
        yield _Way(wanted, wanted)  # unless it is found again
        yield _Way(high, high, lost=wanted)


@dataclass
class _Hole:
    """An offset that is not found, `met` so often, first `since`; nothing is tried before `due`."""

    wanted: int
    way: _Way
    ways: Generator[_Way, bool] | None = None
    why: str = ""
    since: float = field(default_factory=time.monotonic)
    met: int = 0
    due: float = 0.0

    def go_on(self, *, brought: bool, end: int) -> int:
        """Say where to fetch next."""
        try:
            if self.ways is None:
                self.ways = _ways(self.wanted, end)
                self.way = next(self.ways)
            else:
                self.way = self.ways.send(brought)
        except StopIteration:
            return self.rest(_REST_S if end else 0.0)
        return self.way.start

    def rest(self, seconds: float) -> int:
        """Look again at the place itself, later; return that."""
        self.ways, self.way = None, _Way(self.wanted, self.wanted)
        self.due = time.monotonic() + seconds
        return self.wanted


class Holes:
    """Sits in a consumer and takes its answers apart, so that one partition never ends them all."""

    def __init__(self, consumer: Any) -> None:
        self._consumer, self._fetcher = consumer, consumer._fetcher
        self._parse = self._fetcher._parse_fetched_data
        self._fetcher._parse_fetched_data = self._take_apart
        self._holes: dict[Any, _Hole] = {}
        self._ends: dict[Any, int] = {}

    @property
    def places(self) -> set[Any]:
        """The partitions with a hole."""
        return set(self._holes)

    @property
    def blind(self) -> bool:
        """Whether it is not known where a partition with a hole ends."""
        return not self._ends.keys() >= self.places

    def due(self, paused: Collection[Any]) -> list[Any]:
        """Return those of the paused partitions that may be fetched from now."""
        now = time.monotonic()
        return [place for place in paused if place not in self._holes or self._holes[place].due <= now]

    def forget(self, places: Collection[Any]) -> None:
        """Note that partitions gave a record, or are ours no more."""
        for place in places:
            self._holes.pop(place, None)

    def note_ends(self, ends: dict[Any, int]) -> None:
        """Note where partitions end."""
        self._ends |= ends

    def trouble(self) -> TransientError | None:
        """Say which partitions of ours give nothing, though something lies there."""
        told = [
            f"{place.topic}/{place.partition}/{hole.wanted} ({hole.why})" for place, hole in self._known()
        ]
        if not told:
            return None
        return TransientError(
            "bus-record",
            f"Partitions wait, as the broker does not hand out their records: {', '.join(sorted(told))}.",
            hint="The broker's log says why; a partition goes on as soon as it can be read. To give up what "
            "lies there, set the group's offset behind it: kafka-consumer-groups.",
        )

    def _known(self) -> Iterator[tuple[Any, _Hole]]:
        assigned, since = self._consumer.assignment(), time.monotonic() - _TELL_S
        for place, hole in self._holes.items():
            if place in assigned and hole.since < since and (hole.met >= _TELL_AFTER or hole.due):
                yield place, hole

    def _take_apart(self, completion: Any) -> Any:
        """Read an answer's part as kafka-python does, but for what is missing or damaged in it."""
        place, at, data = completion.topic_partition, completion.fetched_offset, completion.partition_data
        if not self._current(place, at):
            return self._parse(completion)
        hole, missing = self._hole(place, at), self._missing(at, data)
        if hole and hole.way.probe and not missing:
            return self._go(place, hole, brought=True)
        try:
            found = self._parsed(completion, hole)
        except Exception as error:
            if isinstance(error, kafka_errors.AuthorizationError) or raised_by_us(error):
                raise
            missing, found = missing or type(error).__name__, None
        if missing:
            return self._miss(place, at, missing, damaged=_error(data) in _DAMAGED)
        if not data.records:
            self._holes.pop(place, None)  # it was the end
        return found

    def _current(self, place: Any, at: int) -> bool:
        subscriptions = self._fetcher._subscriptions
        return bool(subscriptions.is_fetchable(place) and subscriptions.position(place).offset == at)

    def _hole(self, place: Any, at: int) -> _Hole | None:
        hole = self._holes.get(place)
        if hole and not hole.way.start <= at <= max(hole.wanted, hole.way.start):
            del self._holes[place]  # others went on from elsewhere
            return None
        return hole

    def _parsed(self, completion: Any, hole: _Hole | None) -> Any:
        at, data = completion.fetched_offset, completion.partition_data
        way = hole.way if hole else _Way(at, at)
        self._fetcher.PartitionRecords = partial(
            PassingRecords,
            floor=max(way.floor, at),
            end=data.high_watermark,
            lost=way.lost if at == way.start else None,
            whole=bool(hole) and self._room(data),
        )
        return self._parse(completion)

    def _missing(self, at: int, data: Any) -> str:
        """Say what is wrong with an answer; "" if nothing is."""
        error = _error(data)
        if error not in _SOUND:
            return str(error.__name__)
        end = data.last_stable_offset if data.last_stable_offset >= 0 else data.high_watermark
        empty = not data.records and end > at and self._room(data)
        return "nothing lies where a record should be" if empty else ""

    def _room(self, data: Any) -> bool:
        """Say whether an answer cannot have been cut, for its own length or for all partitions'."""
        config, partitions = self._fetcher.config, len(self._consumer.assignment())
        most = int(config["max_partition_fetch_bytes"])
        return len(data.records or b"") < most and partitions * most <= int(config["fetch_max_bytes"])

    def _miss(self, place: Any, at: int, why: str, *, damaged: bool) -> None:
        hole = self._holes.setdefault(place, _Hole(at, _Way(at, at)))
        hole.why, hole.met = why, hole.met + 1
        if damaged:
            self._go(place, hole, brought=False)
        elif at != hole.wanted:
            self._seek(place, hole.rest(0.0))
        else:
            self._consumer.pause(place)

    def _go(self, place: Any, hole: _Hole, *, brought: bool) -> None:
        self._seek(place, hole.go_on(brought=brought, end=self._ends.get(place, 0)))

    def _seek(self, place: Any, offset: int) -> None:
        self._consumer.seek(place, offset)
        self._consumer.pause(place)  # others first: it is due at the next call


def _error(data: Any) -> Any:
    return kafka_errors.for_code(data.error_code)
