"""The embedded broker's file gives room back, and nobody misses a record that he had not finished."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from histgen_lib.bus import BusSettings, finished_records, open_publisher, open_subscription
from histgen_lib.events import DEAD_LETTER, SLIDE_SCANNED, DeadLettered, Event

THEN = datetime(2026, 1, 1, tzinfo=UTC)
LATER = THEN + timedelta(days=30)


@pytest.fixture
def bus(tmp_path: Path) -> BusSettings:
    return BusSettings(f"embedded:{tmp_path / 'bus.db'}", partitions=2)


def publish(bus: BusSettings, count: int, topic: str = SLIDE_SCANNED, at: datetime = THEN) -> None:
    publisher = open_publisher(bus)
    for number in range(count):
        data = DeadLettered(f"slide-{number}", "e", "x", "x" * 2000, "k")
        event = Event.first(data, source="/test", now=at, identity=str(number))
        publisher.publish(topic, event.key, event)
    publisher.close()


def finish(bus: BusSettings, count: int, group: str = "g", topic: str = SLIDE_SCANNED) -> list[str]:
    """Finish some records; return their positions."""
    subscription, done = open_subscription(bus, topic, group), []
    while len(done) < count and (delivery := subscription.next(0)):
        assert subscription.done(delivery)
        done.append(delivery.position)
    subscription.close()
    return done


def pruned(bus: BusSettings, before: datetime = LATER, *, remove: bool = True) -> int:
    return sum(1 for _ in finished_records(bus, before, remove=remove))


def size(bus: BusSettings) -> int:
    return Path(bus.url.removeprefix("embedded:")).stat().st_size


def test_records_finished_by_every_group_are_removed_and_the_file_shrinks(bus):
    publish(bus, 400)
    assert pruned(bus) == 0  # nobody has read it yet
    assert len(finish(bus, 400)) == 400
    assert len(finish(bus, 1, group="other")) == pruned(bus)
    assert len(finish(bus, 400, group="other")) == 399
    before = size(bus)

    assert pruned(bus, remove=False) == pruned(bus) == 397  # the last of each partition stays
    assert size(bus) < before / 4
    assert pruned(bus) == 0


def test_unfinished_records_are_delivered_afterwards_once_and_in_order(bus):
    publish(bus, 100)
    first = finish(bus, 60)
    assert 50 < pruned(bus) <= 60
    publish(bus, 20)
    rest = finish(bus, 1000)

    assert len(rest) == 60
    assert len(set(first) | set(rest)) == 120


def test_a_record_in_flight_and_all_behind_it_stay(bus):
    publish(bus, 50)
    subscription = open_subscription(bus, SLIDE_SCANNED, "g")
    delivery = subscription.next(0)
    assert delivery
    assert pruned(bus) == 0
    assert subscription.done(delivery)
    subscription.close()

    assert pruned(bus) == 1


def test_a_later_group_begins_with_the_first_record_that_is_left(bus):
    publish(bus, 40)
    finish(bus, 40)
    pruned(bus)
    publish(bus, 10)

    assert len(finish(bus, 100, group="new")) == 12
    assert len(finish(bus, 100)) == 10


def test_recent_records_stay(bus):
    publish(bus, 20)
    publish(bus, 20, at=LATER)
    finish(bus, 40)

    assert pruned(bus, LATER - timedelta(days=1)) == 20


def test_old_records_of_topics_without_consumers_are_removed(bus):
    publish(bus, 20, topic=DEAD_LETTER)
    publish(bus, 20, topic="somebody.elses")

    assert pruned(bus) == 18


def test_pruning_loses_nothing_of_concurrent_writers_and_readers(bus):
    publish(bus, 300)
    finish(bus, 300)
    over, read = threading.Event(), list[str]()

    def work() -> None:
        while not over.is_set() or len(read) < 200:
            read.extend(finish(bus, 10))

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    for _ in range(4):
        publish(bus, 50)
        pruned(bus)
    over.set()
    worker.join(120)

    assert len(read) == len(set(read)) == 200


@pytest.mark.parametrize("headers", [b"{\xff}", "[" * 20_000, "{", 7], ids=["bytes", "deep", "cut", "number"])
def test_a_damaged_row_is_as_old_as_those_around_it(bus, headers):
    publish(bus, 40)
    finish(bus, 40)
    with sqlite3.connect(bus.url.removeprefix("embedded:")) as file:
        file.execute("UPDATE record SET headers = ? WHERE seq = 1", (headers,))

    assert pruned(bus) == 38


def test_there_is_nothing_to_prune_if_the_broker_never_ran_or_prunes_itself(bus):
    assert pruned(bus) == 0
    assert pruned(BusSettings("kafka://nowhere:1")) == 0
