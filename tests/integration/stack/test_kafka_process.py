"""A Kafka of our own starts, stops, keeps its data, and never outlives the process that started it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import until

from histgen_lib.errors import FatalError
from histgen_lib.stack.children import accepts, free_port
from histgen_lib.stack.kafka import KafkaProcess


def test_without_jars_the_error_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FatalError) as caught:
        KafkaProcess(tmp_path / "libs", tmp_path / "data").start()
    assert caught.value.code == "kafka-missing"
    assert "mvn -q -B -f deploy/kafka/pom.xml package" in caught.value.hint


def test_without_java_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FatalError, match="Java is not installed"):
        KafkaProcess(tmp_path, tmp_path / "data").start()


def test_a_start_that_fails_names_the_log(kafka_home: Path, tmp_path: Path) -> None:
    broker = KafkaProcess(kafka_home, tmp_path, settings="log.dirs=\n")
    with pytest.raises(FatalError) as caught:
        broker.start()
    assert caught.value.code == "kafka-failed"
    assert str(broker.log_path) in caught.value.hint
    assert broker.log_path.stat().st_size > 0
    assert broker.pid is None


def test_the_broker_ends_with_the_process_that_started_it(kafka_home: Path, tmp_path: Path) -> None:
    """Also when that is killed; and it listens on this machine only."""
    port = free_port()
    program = f"""
import signal, pathlib
from histgen_lib.stack.kafka import KafkaProcess
broker = KafkaProcess(pathlib.Path({str(kafka_home)!r}), pathlib.Path({str(tmp_path)!r}), {port})
broker.start()
print(broker.url, flush=True)
signal.pause()
"""
    starter = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    assert starter.stdout.readline() == f"kafka://127.0.0.1:{port}\n"
    assert accepts(port)
    with pytest.raises(ConnectionRefusedError):  # a broker that listened everywhere would listen here, too
        socket.create_connection(("127.0.0.2", port), timeout=1)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    until(lambda: not accepts(port), 60, "the broker's end")
