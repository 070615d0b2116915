"""A Kafka that `histgen up` starts refuses clients without the home's secret."""

from __future__ import annotations

import json
import shutil
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from service_access import bytes_at, listening
from waiting import until

from histgen_lib.bus import BusSettings, open_publisher, open_subscription
from histgen_lib.client.connection import Target, connect
from histgen_lib.client.home import StackHome, StackRecord
from histgen_lib.errors import FatalError, HistgenError
from histgen_lib.stack.kafka import KafkaAuth, KafkaProcess

ROOT = Path(__file__).resolve().parents[3]
METADATA = struct.pack(">hhih", 3, 1, 1, -1) + struct.pack(">i", -1)
"""A request for the names of all topics, as any client may send it."""


def auth_of(home: StackHome) -> KafkaAuth:
    return KafkaAuth(home.secret("kafka"), home.kafka_client_path)


def locked(home: StackHome, libs: Path) -> KafkaProcess:
    return KafkaProcess(libs, home.kafka_client_path.parent, auth=auth_of(home))


def bus_of(home: StackHome, broker: KafkaProcess) -> BusSettings:
    """Find the broker as every command does."""
    home.write(StackRecord(1, "http://127.0.0.1:9", broker.url, f"file:{home.folder}/o", None, "onnx", "/"))
    return connect(Target(home=home.folder), {}).need_bus()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> StackHome:
    return StackHome(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def broker(home: StackHome, kafka_home: Path) -> Iterator[KafkaProcess]:
    broker = locked(home, kafka_home)
    broker.start()
    yield broker
    broker.kill()


def publish(bus: BusSettings, body: bytes) -> None:
    with closing(open_publisher(bus)) as publisher:
        publisher.publish_raw("lab", "k", body)


def test_who_can_read_the_home_can_read_and_write(home: StackHome, broker: KafkaProcess) -> None:
    bus = bus_of(home, broker)
    publish(bus, b"slide")
    with closing(open_subscription(bus, "lab", "reader")) as subscription:
        delivery = until(lambda: subscription.next(0.2), 60, "the record")
        assert delivery.raw == b"slide"
        assert subscription.done(delivery)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"])
def test_another_password_is_refused(home: StackHome, broker: KafkaProcess, mechanism: str) -> None:
    right = bus_of(home, broker)
    guess = {"sasl_plain_password": "0" * 64, "sasl_mechanism": mechanism, "bootstrap_timeout_ms": 2000}
    with pytest.raises(HistgenError) as caught:
        publish(replace(right, kafka=tuple({**dict(right.kafka), **guess}.items())), b"x")
    assert caught.value.code == "bus-refused"


def test_no_port_answers_before_login(broker: KafkaProcess) -> None:
    """Clients', the broker's own and the controller's; there is no other, and none for other machines."""
    assert broker.pid is not None
    ports = listening(broker.pid)

    assert len(ports) == 3
    assert {address[-8:] for address, _ in ports} == {"0100007F"}
    for _, port in ports:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as stranger:
            stranger.sendall(struct.pack(">i", len(METADATA)) + METADATA)
            assert stranger.recv(1) == b""


def test_the_secret_is_only_in_files_of_its_owner(home: StackHome, broker: KafkaProcess) -> None:
    secret = home.secret("kafka").read_bytes()
    files = [path for path in home.folder.rglob("*") if secret in bytes_at(path)]
    process = Path(f"/proc/{broker.pid}")

    assert sorted(path.name for path in files) == [
        "client.json",
        "client.properties",
        "kafka",
        "server.properties",
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert secret not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    assert secret not in repr(bus_of(home, broker)).encode()


def connected_as_documented(home: StackHome) -> Any:
    """Run the block of docs/stream.md with this home."""
    page = (ROOT / "docs" / "stream.md").read_text()
    block = page.partition(f"<!-- run by {Path(__file__).relative_to(ROOT)} -->\n```python\n")[2]
    names: dict[str, Any] = {}
    exec(block.partition("```")[0].replace("~/.local/share/histgen", str(home.folder)), names)
    return names["producer"]


def test_other_programs_of_the_account_connect_with_the_files(
    home: StackHome, broker: KafkaProcess, kafka_home: Path
) -> None:
    client = json.loads(home.kafka_client_path.read_text())
    scanner = connected_as_documented(home)
    with closing(scanner):
        scanner.send("lab", b"by kafka-python").get(timeout=60)
    properties = home.kafka_client_path.with_suffix(".properties")
    command = [shutil.which("java"), "-cp", f"{kafka_home}/*", "kafka.admin.ConfigCommand"]
    command += ["--bootstrap-server", client["bootstrap_servers"], "--command-config", properties]
    command += ["--describe", "--entity-type", "topics", "--entity-name", "lab"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "topic lab" in run.stdout


def test_a_removed_secret_is_replaced_and_the_old_one_is_refused(kafka_home: Path, tmp_path: Path) -> None:
    home = StackHome(tmp_path)
    broker = locked(home, kafka_home)
    broker.start()
    before = bus_of(home, broker)
    broker.stop()
    home.secret("kafka").unlink()
    broker.start()
    try:
        publish(bus_of(home, broker), b"x")
        with pytest.raises(FatalError, match="denies access"):
            publish(before, b"x")
    finally:
        broker.kill()


def test_topics_and_offsets_from_before_authentication_survive(kafka_home: Path, tmp_path: Path) -> None:
    home = StackHome(tmp_path / "home")
    first = KafkaProcess(kafka_home, home.kafka_client_path.parent)
    first.start()
    bus = BusSettings(first.url, partitions=1)
    for body in (b"1", b"2"):
        publish(bus, body)
    with closing(open_subscription(bus, "lab", "reader")) as subscription:
        assert subscription.done(until(lambda: subscription.next(0.2), 60, "the record"))
    first.stop()

    now = locked(home, kafka_home)
    now.start()
    try:
        with closing(open_subscription(bus_of(home, now), "lab", "reader")) as subscription:
            assert until(lambda: subscription.next(0.2), 60, "the record").raw == b"2"
    finally:
        now.kill()
