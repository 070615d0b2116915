"""What KEDA sees of a consumer group, asked of the broker: its offsets and the ends of partitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import kafka
from kafka.admin import KafkaAdminClient, OffsetSpec
from kafka.errors import KafkaError

from histgen_lib.bus import BusSettings
from histgen_lib.capacity.triggers import NONE_COMMITTED, Offsets


@contextmanager
def watched(bus: BusSettings, topic: str, group: str) -> Iterator[Callable[[], list[Offsets] | None]]:
    """Yield a function that returns the offsets of each partition; None if the broker does not answer."""

    def look() -> list[Offsets] | None:
        try:
            (found,) = admin.describe_topics([topic])
            parts = sorted(part["partition_index"] for part in found["partitions"])
            places = [kafka.TopicPartition(topic, part) for part in parts]
            committed = admin.list_group_offsets({group: places})[group]
            ends = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
        except KafkaError:
            return None
        offsets = {place: found.offset for place, found in committed.items()}
        return [Offsets(offsets.get(place, NONE_COMMITTED), ends[place].offset) for place in places]

    with _admin(bus) as admin:
        yield look


def offsets_of(bus: BusSettings, topic: str, group: str) -> list[Offsets] | None:
    """Return the offsets of each partition once."""
    with watched(bus, topic, group) as look:
        return look()


def remove_records(bus: BusSettings, topic: str, before: dict[int, int]) -> None:
    """Remove the records of partitions below an offset, as the broker does when they are too old."""
    with _admin(bus) as admin:
        admin.delete_records({kafka.TopicPartition(topic, part): offset for part, offset in before.items()})


@contextmanager
def _admin(bus: BusSettings) -> Iterator[Any]:
    servers = bus.url.removeprefix("kafka://")
    with closing(KafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=5000)) as admin:
        yield admin
