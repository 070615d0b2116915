"""A real Apache Kafka keeps the promises of a bus."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from bus_aside_suite import AsideSuite
from bus_backlog_suite import BacklogSuite
from bus_members import publish
from bus_several_suite import SeveralSuite
from bus_suite import BusSuite
from kafka import KafkaAdminClient, TopicPartition

from histgen_lib.bus import Backlog, BusSettings, Publisher
from histgen_lib.stack.kafka import KafkaProcess


@pytest.fixture
def settings(kafka: KafkaProcess) -> BusSettings:
    return BusSettings(kafka.url)


@pytest.fixture
def hasty(settings: BusSettings) -> BusSettings:
    """Limit the session, and the time between polls, which also ends a session."""
    return dataclasses.replace(settings, session_s=1.5, kafka=(("max_poll_interval_ms", 1_800),))


class TestKafkaBus(BusSuite):
    """The shared suite."""


class TestKafkaAside(AsideSuite):
    """The shared suite."""


class TestKafkaSeveral(SeveralSuite):
    """The shared suite."""


class TestKafkaBacklog(BacklogSuite):
    """The shared suite."""

    def test_records_that_the_broker_has_dropped_do_not_wait(
        self, kafka: KafkaProcess, narrow: Publisher, backlog: Backlog, topic: str
    ) -> None:
        """By its retention, for example; whether or not the group has committed anything."""
        publish(narrow, topic, slides=1, each=3)
        admin = KafkaAdminClient(bootstrap_servers=kafka.url.removeprefix("kafka://"))
        with contextlib.closing(admin):
            admin.delete_records({TopicPartition(topic, 0): 2})
        found = backlog.waiting(topic, f"g-{topic}")[0]
        assert (found.records, found.oldest_at is not None) == (1, True)
