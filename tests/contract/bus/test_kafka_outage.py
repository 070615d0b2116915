"""A broker that is killed and restarted, even one that lost its log, costs only time."""

from __future__ import annotations

import contextlib
import shutil

import kafka
import pytest
from bus_members import new_name, number_of, publish, publishing, scanned
from waiting import until

from histgen_lib.bus import (
    BusSettings,
    Delivery,
    Subscription,
    _kafka,
    _kafka_backlog,
    _kafka_client,
    open_backlog,
    open_subscription,
)
from histgen_lib.errors import TransientError
from histgen_lib.stack.kafka import KafkaProcess


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a shorter time for a broker that is down."""
    for module in (_kafka, _kafka_backlog, _kafka_client):
        monkeypatch.setattr(module, "ANSWER_S", 3.0)
    monkeypatch.setattr(_kafka, "_PATIENCE_S", 2.0)


def outage(call) -> bool:
    """Return whether a call reports that the broker is down."""
    try:
        call()
    except TransientError as error:
        return error.code == "bus-unavailable"
    return False


def patiently(call):
    """Retry a call until it works, as workers do."""
    found = []

    def works() -> bool:
        try:
            found.append(call())
        except TransientError:
            return False
        return True

    until(works, 60, "the broker's return")
    return found[0]


@pytest.mark.usefixtures("impatient")
def test_a_broker_killed_in_mid_work_loses_nothing(own_kafka: KafkaProcess) -> None:
    """The record in flight can be finished afterwards, and is not delivered again."""
    topic, settings = new_name(), BusSettings(own_kafka.url)
    with publishing(settings) as publisher:
        sent = publish(publisher, topic, slides=6, each=2)
        subscription = open_subscription(settings, topic, "g")
        held: Delivery = until(lambda: subscription.next(0.2), 60, "a record")

        own_kafka.kill()
        until(lambda: outage(subscription.keep), 60, "the outage to be noticed")
        assert outage(lambda: publisher.publish(topic, "S9", scanned("S9")))
        assert outage(lambda: subscription.done(held))
        own_kafka.start()

        assert patiently(subscription.keep)
        assert patiently(lambda: subscription.done(held))
        patiently(lambda: publisher.publish(topic, "S9", scanned("S9")))
        taken = [number_of(held)]
        while len(set(taken)) < len(sent) + 1:
            delivery = until(lambda: patiently(lambda: subscription.next(0.2)), 60, "what is left")
            taken.append(number_of(delivery))
            assert patiently(lambda delivery=delivery: subscription.done(delivery))
        subscription.close()
    assert set(taken) == {*sent, ("S9", 0)}
    assert [taken.count(one) for one in sent] == [1] * len(sent)


@pytest.mark.usefixtures("impatient")
def test_what_waits_is_told_again_after_an_outage(own_kafka: KafkaProcess) -> None:
    """Also where the broker lost its log meanwhile: what was known of the oldest record is forgotten."""
    topic, settings = new_name(), BusSettings(own_kafka.url, partitions=1)
    with publishing(settings) as publisher, contextlib.closing(open_backlog(settings)) as backlog:
        publish(publisher, topic, slides=1, each=3)
        first = backlog.waiting(topic, "g")[0]
        assert (first.records, first.oldest_at is not None) == (3, True)
        own_kafka.kill()
        assert outage(lambda: backlog.waiting(topic, "g"))
        own_kafka.start()
        assert patiently(lambda: backlog.waiting(topic, "g")) == {0: first}

        own_kafka.kill()
        shutil.rmtree(own_kafka.log_path.parent)
        own_kafka.start()
        assert patiently(lambda: backlog.waiting(topic, "g")) == {}
        patiently(lambda: publisher.publish(topic, "S9", scanned("S9")))
        again = patiently(lambda: backlog.waiting(topic, "g"))[0]
        assert again.records == 1
        assert again.oldest_at > first.oldest_at


def take_all_in_order(subscription: Subscription, count: int) -> None:
    """Finish `count` records, as a worker does; check that they are those of the new log, in order."""
    taken: list[int] = []
    while len(taken) < count:
        delivery = until(lambda: patiently(lambda: subscription.next(0.2)), 60, "what is left")
        taken.append(delivery.offset)
        assert patiently(lambda delivery=delivery: subscription.done(delivery))
    assert taken == list(range(count))


@pytest.mark.parametrize(
    ("state", "lost"),
    [("idle", "broker"), ("busy", "broker"), ("aside", "broker"), ("idle", "topic"), ("busy", "topic")],
)
def test_records_of_a_recreated_log_are_not_skipped(own_kafka: KafkaProcess, state: str, lost: str) -> None:
    """An operator wiped the broker, or recreated a topic, while workers were running."""
    soon = (("metadata_max_age_ms", 1_000),)  # instead of a minute
    topic, settings = new_name(), BusSettings(own_kafka.url, partitions=1, session_s=3.0, kafka=soon)
    with publishing(settings) as publisher:
        publish(publisher, topic, slides=1, each=4)
        subscription = open_subscription(settings, topic, "g")
        held = [until(lambda: subscription.next(0.2), 60, "a record")]
        for _ in range(3):
            assert subscription.done(held.pop())
            held.append(until(lambda: subscription.next(0.2), 60, "a record"))
        if state == "idle":
            assert subscription.done(held.pop())
        elif state == "aside":
            assert subscription.defer(held.pop(), 3600)

        if lost == "broker":
            own_kafka.kill()
            shutil.rmtree(own_kafka.log_path.parent)
            own_kafka.start()
        else:
            admin = kafka.KafkaAdminClient(bootstrap_servers=own_kafka.url.removeprefix("kafka://"))
            admin.delete_topics([topic])
            admin.close()
        for number in range(6):
            patiently(lambda number=number: publisher.publish(topic, "S0", scanned("S0", number)))
        if state == "busy":
            until(lambda: not patiently(subscription.keep), 60, "the loss of the record to be noticed")
            assert not patiently(lambda: subscription.done(held[0]))
        take_all_in_order(subscription, 6)
        subscription.close()


def test_a_client_that_never_returns_to_records_it_put_aside_is_replaced(
    own_kafka: KafkaProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As seen with kafka-python after many rebalances: it fetches nothing more of a partition."""
    monkeypatch.setattr(_kafka, "_STALL_S", 1.0)
    topic, settings = new_name(), BusSettings(own_kafka.url, partitions=1, session_s=3.0)
    with publishing(settings) as publisher:
        publish(publisher, topic, slides=1)
        subscription = open_subscription(settings, topic, "g")
        assert subscription.done(until(lambda: subscription.next(0.2), 60, "a record"))
        assert isinstance(subscription, _kafka.KafkaSubscription)
        fetcher = subscription._consumer._fetcher
        fetcher._next_partition_records = []  # all taken, and not None
        fetcher._paused_partition_records = {kafka.TopicPartition(topic, 0): "left aside"}
        patiently(lambda: publisher.publish(topic, "S0", scanned("S0", 7)))
        found = until(lambda: subscription.next(0.2), 60, "the record")
        assert number_of(found) == ("S0", 7)
        assert subscription.done(found)
        subscription.close()
