"""Records that other programs write as Kafka lets them: compressed, in transactions, with any header."""

from __future__ import annotations

import kafka
import pytest
from bus_members import new_name, number_of, scanned
from bus_suite import take
from waiting import until

from histgen_lib.bus import BusSettings, open_subscription
from histgen_lib.bus._kafka_client import ensure_topic
from histgen_lib.errors import TransientError
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
    producer.send(topic, key=b"S1", value=event.body(), headers=headers, **more)


@pytest.mark.parametrize("how", ["gzip", "lz4", "snappy", "zstd"])
def test_records_may_be_compressed(servers: list[str], join, topic: str, how: str) -> None:
    with kafka.KafkaProducer(bootstrap_servers=servers, compression_type=how, linger_ms=200) as producer:
        for number in range(3):
            send(producer, topic, number)
    subscription = join("g")
    for number in range(3):
        delivery = take(subscription)
        assert number_of(delivery) == ("S1", number)
        assert subscription.done(delivery)


def test_what_a_transaction_took_back_was_never_said(servers: list[str], join, topic: str) -> None:
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
    for number in (1, 3):
        delivery = take(subscription)
        assert number_of(delivery) == ("S1", number)
        assert subscription.done(delivery)
    assert subscription.next(0.5) is None
    assert subscription.lag() == 0


class Latin(str):
    """A header's name as no other program of ours could write it."""

    def encode(self, *_: object) -> bytes:
        return super().encode("latin-1")


def test_a_record_that_cannot_be_taken_apart_is_told_and_waited_at(
    servers: list[str], settings: BusSettings, topic: str
) -> None:
    """The client would else look for the rest of it for ever; a person sets the offset, and it goes on."""
    with kafka.KafkaProducer(bootstrap_servers=servers) as producer:
        for number, headers in enumerate(([], [(Latin("größe"), b"")], [])):
            send(producer, topic, number, headers=headers)
            producer.flush()
    subscription = open_subscription(settings, topic, topic)
    first = take(subscription)
    assert subscription.done(first)
    for _ in range(2):
        assert f"{topic}/0/1 " in str(refusal(subscription))
    subscription.close()

    with kafka.KafkaConsumer(bootstrap_servers=servers, group_id=topic) as person:
        person.commit({kafka.TopicPartition(topic, 0): kafka.OffsetAndMetadata(2, "", -1)})
    subscription = open_subscription(settings, topic, topic)
    assert number_of(take(subscription)) == ("S1", 2)
    subscription.close()


def refusal(subscription) -> TransientError:
    def told() -> TransientError | None:
        try:
            assert subscription.next(0.2) is None
        except TransientError as error:
            return error
        return None

    error = until(told, 60, "word of the record")
    assert error.code == "bus-record"
    return error
