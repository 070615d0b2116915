"""A real Apache Kafka broker for tests."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from histgen_lib.stack.children import free_port
from histgen_lib.stack.kafka import KafkaProcess

ROOT = Path(__file__).resolve().parents[2]
LIBS = ROOT / ".local" / "kafka" / "libs"
POM = ROOT / "deploy" / "kafka" / "pom.xml"

_LOCKED_LISTENER = """
listeners=PLAINTEXT://127.0.0.1:{open},LOCKED://127.0.0.1:{locked},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{open},LOCKED://127.0.0.1:{locked}
controller.quorum.voters=1@127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,LOCKED:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
listener.name.locked.sasl.enabled.mechanisms=PLAIN
listener.name.locked.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_lab="histology";
"""


class LockedKafka(KafkaProcess):
    """A broker with a second listener that admits user "lab" with the password "histology"."""

    def __init__(self, home: Path, data: Path) -> None:
        port, self.locked_port = free_port(), free_port()
        settings = _LOCKED_LISTENER.format(open=port, locked=self.locked_port, controller=free_port())
        super().__init__(home, data, port, settings=settings)

    @property
    def locked_url(self) -> str:
        """The URL of the second listener."""
        return f"kafka://127.0.0.1:{self.locked_port}"


@pytest.fixture(scope="session")
def kafka_home() -> Path:
    """Return the folder of Kafka's jars, fetched once (by one test session at a time)."""
    LIBS.parent.mkdir(parents=True, exist_ok=True)
    with (LIBS.parent / ".fetching").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not any(LIBS.glob("kafka_*.jar")):
            subprocess.run(["mvn", "-q", "-B", "-f", str(POM), "package"], check=True)
    return LIBS


@pytest.fixture(scope="session")
def kafka(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LockedKafka]:
    """Run one broker for the whole session: use your own topics and groups, and leave it running."""
    broker = LockedKafka(kafka_home, tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def own_kafka(kafka_home: Path, tmp_path: Path) -> Iterator[KafkaProcess]:
    """Run a broker for one test, which may stop, kill and restart it."""
    soon = "broker.session.timeout.ms=2000\nbroker.heartbeat.interval.ms=300\n"  # back after a kill
    broker = KafkaProcess(kafka_home, tmp_path / "kafka", settings=soon)
    broker.start()
    yield broker
    broker.kill()
