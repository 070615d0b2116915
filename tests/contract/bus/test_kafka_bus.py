"""A real Apache Kafka keeps the promises of a bus."""

from __future__ import annotations

import dataclasses

import pytest
from bus_aside_suite import AsideSuite
from bus_backlog_suite import BacklogSuite
from bus_suite import BusSuite

from histgen_lib.bus import BusSettings
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


class TestKafkaBacklog(BacklogSuite):
    """The shared suite."""
