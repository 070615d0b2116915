"""What waits on a Kafka broker for a consumer group, asked without joining it.

An idle broker is asked for offsets only. To learn when the oldest record of a partition was published, that
record is fetched, once; the client that does so is closed when nothing waits any more.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import kafka
from kafka import errors as kafka_errors
from kafka.admin import OffsetSpec

from histgen_lib.bus._kafka_client import ANSWER_S, connect, talking
from histgen_lib.bus._port import BusSettings, Waiting

_FETCH_S, _ALL_FETCHES_S = 1.0, 5.0
"""How long to wait for the oldest record of a partition, and for those of all partitions."""
_COMMITTED = "read_committed"
_NO_COORDINATOR = (
    kafka_errors.CoordinatorNotAvailableError,
    kafka_errors.CoordinatorLoadInProgressError,
    kafka_errors.NotCoordinatorError,
)
"""Of a broker that has just started, for a moment."""
_PAUSE_S = 0.1


class KafkaBacklog:
    """A `Backlog` of a Kafka broker."""

    def __init__(self, settings: BusSettings, servers: list[str]) -> None:
        self._settings, self._servers = settings, servers
        self._admin: Any = None
        self._reader: Any = None
        self._published: dict[tuple[str, str], dict[tuple[Any, int], float | None]] = {}

    def waiting(self, topic: str, group: str) -> dict[int, Waiting]:
        """See `Backlog.waiting`."""
        with self._asking() as admin:
            places = self._places(admin, topic)
            ranges = self._ranges(admin, places, group) if places else {}
            heads = {(place, start) for place, (start, end) in ranges.items() if start < end}
            known = self._published.get((topic, group), {})
            published = {head: known[head] for head in heads if known.get(head)}
            published |= self._fetched(heads - published.keys())
            self._published[topic, group] = published
        return {
            place.partition: Waiting(end - start, published.get((place, start)))
            for place, (start, end) in sorted(ranges.items())
        }

    def close(self) -> None:
        """See `Backlog.close`."""
        for client in (self._admin, self._reader):
            if client is not None:
                with contextlib.suppress(Exception):
                    client.close()
        self._admin = self._reader = None

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Any]:
        """Lend the client that asks; after any error both are made anew. Raises as `talking`."""
        try:
            if self._admin is None:
                self._admin = connect(kafka.KafkaAdminClient, self._settings, self._servers)
            with talking():
                yield self._admin
        except BaseException:
            self.close()
            raise

    def _places(self, admin: Any, topic: str) -> list[Any]:
        """Return the partitions of a topic; none if it is not there."""
        (found,) = admin.describe_topics([topic])
        if found["error_code"] == kafka_errors.UnknownTopicOrPartitionError.errno:
            return []
        if failed := kafka_errors.for_code(found["error_code"]) if found["error_code"] else None:
            raise failed
        numbers = sorted(one["partition_index"] for one in found["partitions"])
        return [kafka.TopicPartition(topic, number) for number in numbers]

    def _ranges(self, admin: Any, places: list[Any], group: str) -> dict[Any, tuple[int, int]]:
        """Return the offset of the first unfinished record of each partition, and that behind the last."""
        ends = _offsets(admin, places, OffsetSpec.LATEST)
        floors = _committed(admin, places, group)
        open = [place for place in places if floors.get(place, -1) < ends[place]]
        firsts = _offsets(admin, open, OffsetSpec.EARLIEST) if open else {}
        starts = {place: max(floors.get(place, 0), firsts.get(place, 0)) for place in places}
        return {place: (min(starts[place], ends[place]), ends[place]) for place in places}

    def _fetched(self, heads: set[tuple[Any, int]]) -> Mapping[tuple[Any, int], float | None]:
        """Return when the records at these places were published, as far as they can be read in time."""
        if not heads:
            self._rest()
            return {}
        end = time.monotonic() + _ALL_FETCHES_S
        return {head: self._fetch(*head) for head in sorted(heads) if time.monotonic() < end}

    def _fetch(self, place: Any, offset: int) -> float | None:
        reader = self._open_reader()
        reader.assign([place])
        reader.seek(place, offset)
        try:
            found = reader.poll(timeout_ms=_FETCH_S * 1000, max_records=1)
        except (kafka_errors.CorruptRecordError, kafka_errors.UnknownError):  # damage: the worker says so
            return None
        times = [record.timestamp for records in found.values() for record in records]
        return times[0] / 1000 if times and times[0] > 0 else None

    def _open_reader(self) -> Any:
        if self._reader is None:
            self._reader = connect(
                kafka.KafkaConsumer,
                self._settings,
                self._servers,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                allow_auto_create_topics=False,
                isolation_level=_COMMITTED,
                enable_incremental_fetch_sessions=False,
                max_partition_fetch_bytes=1024,  # a broker sends one batch at least
                max_poll_records=1,
            )
        return self._reader

    def _rest(self) -> None:
        """Close the client that reads once nothing waits for any group: an open one costs a little."""
        if self._reader is not None and not any(self._published.values()):
            self._reader.close()
            self._reader = None


def _committed(admin: Any, places: list[Any], group: str) -> dict[Any, int]:
    """Return what a group has committed; nothing of partitions that it has never read."""
    end = time.monotonic() + ANSWER_S
    while True:
        try:
            stored = admin.list_group_offsets({group: places})[group]
        except _NO_COORDINATOR:
            if time.monotonic() > end:
                raise
            time.sleep(_PAUSE_S)
        else:
            return {place: one.offset for place, one in stored.items() if one.offset >= 0}


def _offsets(admin: Any, places: list[Any], which: Any) -> dict[Any, int]:
    asked = dict.fromkeys(places, which)
    found = admin.list_partition_offsets(asked, isolation_level=_COMMITTED, timeout_ms=ANSWER_S * 1000)
    return {place: int(one.offset) for place, one in found.items()}
