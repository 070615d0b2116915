"""A real Apache Kafka for the tests that need one."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from histgen_lib.stack.kafka import KafkaProcess

ROOT = Path(__file__).resolve().parents[2]
LIBS = ROOT / ".local" / "kafka" / "libs"
POM = ROOT / "deploy" / "kafka" / "pom.xml"


@pytest.fixture(scope="session")
def kafka_home() -> Path:
    """Find Kafka's jars, fetching them once (one test session at a time)."""
    LIBS.parent.mkdir(parents=True, exist_ok=True)
    with (LIBS.parent / ".fetching").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not any(LIBS.glob("kafka_*.jar")):
            subprocess.run(["mvn", "-q", "-B", "-f", str(POM), "package"], check=True)
    return LIBS


@pytest.fixture(scope="session")
def kafka(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaProcess]:
    """Run one broker for the whole session: use topics and groups of your own, and leave it running."""
    broker = KafkaProcess(kafka_home, tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def own_kafka(kafka_home: Path, tmp_path: Path) -> Iterator[KafkaProcess]:
    """Run a broker for one test, which may stop, kill and start it."""
    broker = KafkaProcess(kafka_home, tmp_path / "kafka")
    broker.start()
    yield broker
    broker.kill()
