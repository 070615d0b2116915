"""Reading around records that a Kafka broker does not find, and naming partitions where that is impossible.

A broker looks for an offset from batch to batch, by their lengths. If one of these is damaged, it finds
nothing up to the next entry of its index. But a fetch that begins before the damage also brings what lies
behind it, and one that begins behind that entry brings the rest.
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

_REPORT_S, _REPORT_AFTER, _REST_S = 10.0, 3, 60.0
"""A hole is reported once it is so old and was met so often. If there is no way around it, the search begins
again after the last of these times."""
_FAR = 4096
"""How many offsets before a hole a fetch may begin."""
_SOUND = (kafka_errors.NoError, kafka_errors.OffsetOutOfRangeError)
"""Answers that kafka-python deals with."""
_DAMAGED = (
    kafka_errors.NoError,
    kafka_errors.CorruptRecordError,
    kafka_errors.InvalidRecordError,
    kafka_errors.UnknownError,
)
"""A broker's answers when it meets damage; all others concern the partition as a whole."""


@dataclass(frozen=True)
class _Way:
    """A fetch that begins at `start`, and of which records from `floor` on are delivered.

    `lost`: the offset from which everything up to the floor is given up. `probe`: the fetch only finds out
    whether there are records.
    """

    start: int
    floor: int
    lost: int | None = None
    probe: bool = False


def _ways(missing: int, end: int) -> Generator[_Way, bool]:
    """Yield ways around the offset `missing`; is sent whether a fetch brought something.

    Ways that begin before `missing` end the search when they succeed.
    """
    before = 1
    while before <= _FAR and before < 2 * missing:
        yield _Way(max(0, missing - before), missing)
        before *= 2
    low, high = missing, missing + 1
    while high < end and not (yield _Way(high, high, probe=True)):
        low, high = high, missing + 2 * (high - missing)
    if high < end:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if (yield _Way(middle, middle, probe=True)) else (middle, high)
        yield _Way(missing, missing)  # unless it is found again
        yield _Way(high, high, lost=missing)


@dataclass
class _Hole:
    """An offset that is not found, `met` so often, since when; nothing is tried before `due`."""

    offset: int
    way: _Way
    ways: Generator[_Way, bool] | None = None
    why: str = ""
    since: float = field(default_factory=time.monotonic)
    met: int = 0
    due: float = 0.0

    def go_on(self, *, brought: bool, end: int) -> int:
        """Return where to fetch next."""
        try:
            if self.ways is None:
                self.ways = _ways(self.offset, end)
                self.way = next(self.ways)
            else:
                self.way = self.ways.send(brought)
        except StopIteration:
            return self.rest(_REST_S if end else 0.0)
        return self.way.start

    def rest(self, seconds: float) -> int:
        """Try the offset itself again later; return it."""
        self.ways, self.way = None, _Way(self.offset, self.offset)
        self.due = time.monotonic() + seconds
        return self.offset


class Holes:
    """Parses a consumer's answers in its place, so that one damaged partition never stops the others."""

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
        """Whether the end of some partition with a hole is unknown."""
        return not self._ends.keys() >= self.places

    def due(self, paused: Collection[Any]) -> list[Any]:
        """Return the paused partitions from which records may be fetched now."""
        now = time.monotonic()
        return [place for place in paused if place not in self._holes or self._holes[place].due <= now]

    def forget(self, places: Collection[Any]) -> None:
        """Note that partitions delivered a record, or are no longer ours."""
        for place in places:
            self._holes.pop(place, None)

    def note_ends(self, ends: dict[Any, int]) -> None:
        """Note where partitions end."""
        self._ends |= ends

    def trouble(self) -> TransientError | None:
        """Return an error that names partitions of ours that deliver nothing although they have records."""
        places = [
            f"{place.topic}/{place.partition}/{hole.offset} ({hole.why})" for place, hole in self._known()
        ]
        if not places:
            return None
        return TransientError(
            "bus-record",
            f"Partitions wait, as the broker does not deliver their records: {', '.join(sorted(places))}.",
            hint="The broker's log says why; a partition goes on as soon as it can be read. To skip the "
            "damaged records, set the group's offset behind them with kafka-consumer-groups.",
        )

    def _known(self) -> Iterator[tuple[Any, _Hole]]:
        assigned, since = self._consumer.assignment(), time.monotonic() - _REPORT_S
        for place, hole in self._holes.items():
            if place in assigned and hole.since < since and (hole.met >= _REPORT_AFTER or hole.due):
                yield place, hole

    def _take_apart(self, completion: Any) -> Any:
        """Parse one partition's part of an answer; see first what is missing or damaged."""
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
            self._holes.pop(place, None)  # it was the end of the log
        return found

    def _current(self, place: Any, at: int) -> bool:
        subscriptions = self._fetcher._subscriptions
        return bool(subscriptions.is_fetchable(place) and subscriptions.position(place).offset == at)

    def _hole(self, place: Any, at: int) -> _Hole | None:
        hole = self._holes.get(place)
        if hole and not hole.way.start <= at <= max(hole.offset, hole.way.start):
            del self._holes[place]  # others have gone on from elsewhere
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
        """Return what is wrong with an answer; "" if nothing is."""
        error = _error(data)
        if error not in _SOUND:
            return str(error.__name__)
        end = data.last_stable_offset if data.last_stable_offset >= 0 else data.high_watermark
        empty = not data.records and end > at and self._room(data)
        return "nothing lies where a record should be" if empty else ""

    def _room(self, data: Any) -> bool:
        """Return whether an answer is too short to have been truncated, alone and with all partitions'."""
        config, partitions = self._fetcher.config, len(self._consumer.assignment())
        most = int(config["max_partition_fetch_bytes"])
        return len(data.records or b"") < most and partitions * most <= int(config["fetch_max_bytes"])

    def _miss(self, place: Any, at: int, why: str, *, damaged: bool) -> None:
        hole = self._holes.setdefault(place, _Hole(at, _Way(at, at)))
        hole.why, hole.met = why, hole.met + 1
        if damaged:
            self._go(place, hole, brought=False)
        elif at != hole.offset:
            self._seek(place, hole.rest(0.0))
        else:
            self._consumer.pause(place)

    def _go(self, place: Any, hole: _Hole, *, brought: bool) -> None:
        self._seek(place, hole.go_on(brought=brought, end=self._ends.get(place, 0)))

    def _seek(self, place: Any, offset: int) -> None:
        self._consumer.seek(place, offset)
        self._consumer.pause(place)  # others first: this one is due at the next call


def _error(data: Any) -> Any:
    return kafka_errors.for_code(data.error_code)
