"""A group without a member for longer than the broker keeps its offsets: a week, unless set otherwise."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from group_offsets import offsets_of
from harness import scanned
from waiting import until

from histgen_lib.bus import BusSettings, open_publisher, open_subscription
from histgen_lib.capacity.triggers import NONE_COMMITTED, KafkaRule, partition_lag
from histgen_lib.stack.kafka import KafkaProcess

FORGETFUL = "offsets.retention.minutes=1\noffsets.retention.check.interval.ms=1000\n"
TOPIC, GROUP = "slide.scanned", "histgen-tiler"


@pytest.mark.soak
def test_offsets_that_expired_make_everything_lag_again_and_it_is_delivered_again(
    kafka_home, slides, tmp_path: Path
):
    broker = KafkaProcess(kafka_home, tmp_path / "kafka", settings=FORGETFUL)
    broker.start()
    try:
        bus = BusSettings(broker.url, partitions=1)
        events = [scanned(path) for path in slides[:3]]
        with closing(open_publisher(bus)) as publisher:
            for event in events:
                publisher.publish(TOPIC, event.key, event)
        assert taken(bus, len(events)) == [event.id for event in events]
        (found,) = offsets_of(bus, TOPIC, GROUP)
        assert found.committed == found.end == len(events)

        (found,) = until(lambda: expired(bus), 300, "the offsets expire", every_s=1.0)
        assert partition_lag(KafkaRule(offset_reset_policy="earliest"), found) == len(events)
        assert taken(bus, len(events)) == [event.id for event in events]
    finally:
        broker.stop()


def expired(bus: BusSettings) -> list | None:
    """Return the offsets once nothing is committed any more."""
    found = offsets_of(bus, TOPIC, GROUP)
    return found if found and found[0].committed == NONE_COMMITTED else None


def taken(bus: BusSettings, count: int) -> list[str]:
    """Take and finish so many records as a member that comes and goes; return their events' ids."""
    ids = []
    with closing(open_subscription(bus, TOPIC, GROUP)) as member:
        while len(ids) < count:
            delivery = until(lambda: member.next(0.2), 60, "a record")
            ids.append(delivery.event.id)
            assert member.done(delivery)
    return ids
