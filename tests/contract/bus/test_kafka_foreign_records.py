"""Records that other programs write as Kafka lets them: compressed, in transactions, with any header."""

from __future__ import annotations

import kafka
import pytest
from bus_members import new_name, number_of, scanned
from bus_suite import take, take_all
from kafka import codec

from histgen_lib.bus import BusSettings, _kafka_damage
from histgen_lib.bus._kafka_client import ensure_topic
from histgen_lib.stack.kafka import KafkaProcess


@pytest.fixture
def settings(kafka: KafkaProcess) -> BusSettings:
    """One partition: what cannot be read is in the way of what follows it."""
    return BusSettings(kafka.url, partitions=1)


@pytest.fixture
def servers(settings: BusSettings, topic: str) -> list[str]:
    """Make the topic, and say where it is."""
    servers = [settings.url.removeprefix("kafka://")]
    ensure_topic(settings, servers, topic)
    return servers


def send(producer: kafka.KafkaProducer, topic: str, number: int, **more: object) -> None:
    event = scanned("S1", number)
    headers = [(name, value.encode()) for name, value in event.headers().items()]
    headers += more.pop("headers", [])
    producer.send(topic, **{"key": b"S1", "value": event.body(), **more}, headers=headers)


@pytest.mark.parametrize("how", ["gzip", "lz4", "snappy", "zstd"])
def test_records_may_be_compressed(servers: list[str], join, topic: str, how: str) -> None:
    send_batch(servers, topic, {}, {}, {}, how=how)
    assert take_all(join("g"), 3) == [("S1", number) for number in range(3)]


def test_records_of_an_aborted_transaction_are_never_delivered(servers: list[str], join, topic: str) -> None:
    with kafka.KafkaProducer(bootstrap_servers=servers, transactional_id=new_name()) as producer:
        producer.init_transactions()
        for number in range(4):
            producer.begin_transaction()
            send(producer, topic, number)
            producer.flush()
            if number % 2:
                producer.commit_transaction()
            else:
                producer.abort_transaction()
    subscription = join("g")
    assert take_all(subscription, 2) == [("S1", 1), ("S1", 3)]
    assert subscription.next(0.5) is None
    assert subscription.lag() == 0


class Latin(str):
    """A header's name as no other program of ours could write it."""

    def encode(self, *_: object) -> bytes:
        return super().encode("latin-1")


def send_batch(servers: list[str], topic: str, *each: dict, how: str | None = None) -> None:
    """Send events numbered from 0 in one batch."""
    with kafka.KafkaProducer(bootstrap_servers=servers, compression_type=how, linger_ms=200) as producer:
        for number, more in enumerate(each):
            send(producer, topic, number, **more)


BAD_HEADERS = {
    "a name that is not UTF-8": ([(Latin("größe"), b"")], "record-damaged"),
    "two ids": ([("ce_id", b"another")], "event-unreadable"),
}


@pytest.mark.parametrize("how", [None, "gzip", "zstd"])
@pytest.mark.parametrize("bad", BAD_HEADERS)
def test_an_unreadable_record_is_delivered_as_damaged_and_its_neighbours_arrive(
    servers: list[str], join, topic: str, bad: str, how: str | None
) -> None:
    """The letter names its place; kafka-python alone would look for the rest of it forever."""
    headers, code = BAD_HEADERS[bad]
    send_batch(servers, topic, {}, {"headers": headers}, {"headers": headers}, {}, how=how)
    subscription = join("g")
    found = []
    for _ in range(4):
        found.append(take(subscription))
        assert subscription.done(found[-1])

    assert [one.position for one in found] == [f"{topic}/0/{offset}" for offset in range(4)]
    assert [one.unreadable and one.unreadable.code for one in found] == [None, code, code, None]
    assert [number_of(found[place]) for place in (0, 3)] == [("S1", 0), ("S1", 3)]
    assert subscription.lag() == 0


@pytest.mark.parametrize(
    "more",
    [
        {"headers": [("lab", b"\xff\xfe")]},
        {"headers": [("lab", b"1"), ("lab", b"2")]},
        {"key": None},
        {"key": b"\xff\xfe"},
    ],
    ids=lambda more: "-".join(map(str, more)),
)
def test_extra_headers_are_ignored_however_odd(servers: list[str], join, topic: str, more: dict) -> None:
    send_batch(servers, topic, more)
    assert number_of(take(join("g"))) == ("S1", 0)


def test_a_record_without_a_body_is_delivered_as_unreadable(servers: list[str], join, topic: str) -> None:
    send_batch(servers, topic, {"value": None}, {})
    subscription = join("g")
    empty = take(subscription)
    assert (empty.raw, empty.unreadable.code) == (b"", "event-unreadable")
    assert subscription.done(empty)
    assert number_of(take(subscription)) == ("S1", 1)


@pytest.mark.parametrize("how", ["gzip", "lz4", "zstd"])
def test_a_batch_that_unpacks_to_too_much_is_delivered_as_one_damaged_record(
    servers: list[str], join, topic: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte can unpack to gigabytes, which a producer never had."""
    monkeypatch.setattr(_kafka_damage, "_MOST_UNPACKED", 10_000)
    send_batch(servers, topic, *[{"headers": [("x", b"0" * 4000)]}] * 3, how=how)
    send_batch(servers, topic, {}, how=how)
    subscription = join("g")
    bomb = take(subscription)
    assert (bomb.position, bomb.unreadable.code, bomb.offsets) == (f"{topic}/0/0", "record-damaged", 3)
    assert "stands for 3 offsets" in bomb.unreadable.message
    assert subscription.done(bomb)
    assert number_of(take(subscription)) == ("S1", 0)


def test_a_batch_whose_codec_is_not_installed_is_delivered_as_damaged(
    servers: list[str], join, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_batch(servers, topic, {}, {}, how="zstd")
    send_batch(servers, topic, {})
    monkeypatch.setattr(codec, "zstd", None)
    subscription = join("g")
    packed = take(subscription)
    assert (packed.unreadable.code, packed.offsets) == ("record-damaged", 2)
    assert subscription.done(packed)
    assert number_of(take(subscription)) == ("S1", 0)
