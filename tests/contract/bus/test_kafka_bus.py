"""Apache Kafka, a real one, keeps the promises of a bus."""

from __future__ import annotations

import pytest
from bus_suite import BusSuite

from histgen_lib.bus import BusSettings
from histgen_lib.stack.kafka import KafkaProcess


@pytest.fixture
def settings(kafka: KafkaProcess) -> BusSettings:
    """Limits small enough to overstep them in a test: the session's, and the longest time between polls."""
    return BusSettings(kafka.url, session_s=1.0, kafka=(("max_poll_interval_ms", 1_200),))


class TestKafkaBus(BusSuite):
    """All of the suite."""
