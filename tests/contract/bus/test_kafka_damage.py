"""Damaged bytes in a real broker's log: the damage is reported, and the records behind it arrive."""

from __future__ import annotations

import struct
from collections.abc import Callable

import kafka as kafka_python
import pytest
from bus_suite import take
from servers.kafka_server import LockedKafka
from waiting import until

from histgen_lib.bus import BusSettings, Delivery, Subscription, _kafka_holes
from histgen_lib.bus._kafka_client import ensure_topic

RECORDS, HIT = 8, 3
"""The number of batches, of one record each, and the one that is damaged."""
LENGTH_AT, MAGIC_AT, ATTRIBUTES_AT, DELTA_AT = 8, 16, 22, 23
"""The offsets of fields within a batch."""
GZIP = 1
"""A codec. The obsolete format states it behind the format's number, where today's format has its checksum.
Left as it is, it would be chance which codec the broker sees, and so whether it finds the batch."""

Damage = Callable[[bytearray, int, int], None]
"""Damages a batch in a log, given its start and length."""


def put(layout: str, offset: int, *values: int) -> Damage:
    return lambda log, at, _: struct.pack_into(layout, log, at + offset, *values)


def flip(log: bytearray, at: int, size: int) -> None:
    log[at + size - 3] ^= 0xFF


def grow(by: int) -> Damage:
    return lambda log, at, size: struct.pack_into(">i", log, at + LENGTH_AT, size - 12 + by)


def wipe(log: bytearray, at: int, size: int) -> None:
    log[at : at + size] = bytes(size)


DAMAGES: dict[str, Damage] = {
    "a byte of the body": flip,
    "an unknown codec": put(">b", ATTRIBUTES_AT, 7),
    "an obsolete format": put(">bB", MAGIC_AT, 0, GZIP),
    "an obsolete format, not packed": put(">bB", MAGIC_AT, 0, 0),
    "a huge length": put(">i", LENGTH_AT, 1 << 28),
    "a negative length": put(">i", LENGTH_AT, -5),
    "a smaller length": grow(-5),
    "a larger length": grow(5),
    "a far offset": put(">q", 0, 1 << 40),
    "a huge number of offsets": put(">i", DELTA_AT, 1 << 30),
    "a huge number of records": put(">i", 57, 1 << 30),
    "all of it": wipe,
}
BLIND = ["an obsolete format", "a huge length", "a negative length", "all of it"]
"""Damage after which the broker itself does not find the next records."""


@pytest.fixture
def settings(kafka: LockedKafka) -> BusSettings:
    return BusSettings(kafka.url, partitions=2)


class Log:
    """The log file of a partition on the broker's disk."""

    def __init__(self, broker: LockedKafka, topic: str, partition: int) -> None:
        folder = broker.log_path.parent / "logs" / f"{topic}-{partition}"
        self.path = folder / f"{0:020}.log"

    def apply(self, damage: Damage, which: int) -> bytes:
        """Damage a batch; return the file's former content."""
        before = self.path.read_bytes()
        log, at = bytearray(before), 0
        for _ in range(which):
            at += 12 + struct.unpack_from(">i", log, at + LENGTH_AT)[0]
        damage(log, at, 12 + struct.unpack_from(">i", log, at + LENGTH_AT)[0])
        self.write(bytes(log))
        return before

    def write(self, log: bytes) -> None:
        with self.path.open("r+b") as file:
            file.write(log)


def fill(
    settings: BusSettings, topic: str, partition: int, *, records: int = RECORDS, size: int = 50
) -> None:
    """Send batches of one record each; values start with their number."""
    servers = [settings.url.removeprefix("kafka://")]
    ensure_topic(settings, servers, topic)
    with kafka_python.KafkaProducer(bootstrap_servers=servers) as producer:
        for number in range(records):
            producer.send(topic, partition=partition, value=f"{number}|".encode() + b"x" * size)
            producer.flush()


def take_until(subscription: Subscription, partition: int, offset: int) -> list[Delivery]:
    """Finish records up to an offset of a partition; return those of that partition."""
    found = []
    while not found or found[-1].offset < offset:
        delivery = take(subscription, 90)
        assert subscription.done(delivery)
        found += [delivery] if delivery.partition == partition else []
    return found


def commit(subscription: Subscription, offset: int) -> None:
    """Finish all records before an offset, and leave the group."""
    take_until(subscription, 0, offset - 1)
    subscription.close()


def code(delivery: Delivery) -> str:
    assert delivery.unreadable is not None
    return delivery.unreadable.code


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_delivered_with_its_position_and_the_next_records_follow(
    kafka: LockedKafka, settings: BusSettings, join, topic: str, damage: str
) -> None:
    fill(settings, topic, 0)
    Log(kafka, topic, 0).apply(DAMAGES[damage], HIT)
    found = take_until(join("g"), 0, RECORDS - 1)

    assert [one.offset for one in found] == list(range(RECORDS))
    assert [one.offset for one in found if code(one) == "record-damaged"] == [HIT]
    assert [one.raw[:2] for one in found if one.offset != HIT] == [
        f"{number}|".encode() for number in range(RECORDS) if number != HIT
    ]
    assert found[HIT].position == f"{topic}/0/{HIT}"
    assert found[HIT].raw != b""


@pytest.mark.parametrize("committed", [HIT, HIT + 2])
@pytest.mark.parametrize("damage", [*BLIND, "a far offset"])
def test_a_group_that_resumes_at_or_behind_damage_goes_on(
    kafka: LockedKafka, join, topic: str, damage: str, committed: int
) -> None:
    """The broker finds an offset through the lengths of the batches before it."""
    fill(BusSettings(kafka.url, partitions=2), topic, 0)
    commit(join("g"), committed)
    Log(kafka, topic, 0).apply(DAMAGES[damage], HIT)
    found = take_until(join("g"), 0, RECORDS - 1)

    assert [one.offset for one in found] == list(range(committed, RECORDS))
    assert [one.offset for one in found if code(one) == "record-damaged"] == [HIT] * (committed == HIT)


@pytest.mark.parametrize("damage", [*BLIND, "a byte of the body"])
def test_damage_at_the_very_end_is_delivered(
    kafka: LockedKafka, settings: BusSettings, join, topic: str, damage: str
) -> None:
    fill(settings, topic, 0)
    commit(join("g"), RECORDS - 1)
    Log(kafka, topic, 0).apply(DAMAGES[damage], RECORDS - 1)
    subscription = join("g")
    found = take_until(subscription, 0, RECORDS - 1)

    assert [(one.offset, code(one)) for one in found] == [(RECORDS - 1, "record-damaged")]
    assert subscription.lag() == 0


@pytest.mark.parametrize("damage", BLIND)
def test_records_before_the_next_index_entry_are_given_up_as_one(
    kafka: LockedKafka, settings: BusSettings, join, topic: str, damage: str
) -> None:
    """The first batch of a log cannot be reached from an earlier one."""
    fill(settings, topic, 0, records=30, size=400)
    Log(kafka, topic, 0).apply(DAMAGES[damage], 0)
    subscription = join("g")
    first = take(subscription, 90)
    assert (first.offset, code(first)) == (0, "record-damaged")
    assert f"stands for {first.offsets} offsets" in str(first.unreadable)
    assert 1 < first.offsets < 30
    assert subscription.done(first)
    rest = take_until(subscription, 0, 29)

    assert [one.offset for one in rest] == list(range(first.offsets, 30))
    assert {code(one) for one in rest} == {"event-type"}


def test_damage_is_passed_only_once_it_is_finished(
    kafka: LockedKafka, settings: BusSettings, join, topic: str
) -> None:
    fill(settings, topic, 0)
    commit(join("g"), HIT)
    Log(kafka, topic, 0).apply(flip, HIT)
    subscription = join("g")
    damaged = take(subscription)
    subscription.release(damaged)
    again = take(subscription)
    assert (again.position, again.raw) == (damaged.position, damaged.raw)
    subscription.close()

    subscription = join("g")
    assert take(subscription).position == damaged.position


def test_other_partitions_never_wait_for_one_that_the_broker_cannot_read(
    kafka: LockedKafka, settings: BusSettings, join, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partition is reported, and goes on once its disk is repaired."""
    monkeypatch.setattr(_kafka_holes, "_REPORT_S", 0.5)
    monkeypatch.setattr(_kafka_holes, "_REST_S", 0.5)
    fill(settings, topic, 0)
    log = Log(kafka, topic, 0)
    before = log.path.read_bytes()
    log.write(bytes(len(before)))
    fill(settings, topic, 1)
    subscription = join("g")

    assert [code(one) for one in take_until(subscription, 1, RECORDS - 1)] == ["event-type"] * RECORDS
    trouble = until(lambda: subscription.next(0.1) or subscription.trouble(), 60, "the report")
    assert trouble.code == "bus-record"
    assert f"{topic}/0/0 " in trouble.message
    fill(settings, topic, 1, records=1)
    assert take(subscription).partition == 1

    log.write(before)
    subscription.close()
    subscription = join("g")
    assert [code(one) for one in take_until(subscription, 0, RECORDS - 1)] == ["event-type"] * RECORDS
    assert subscription.trouble() is None
