"""A real tritonserver and a real Kafka come up in the end, even if killed during their first start."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from small_disk import small_disk
from waiting import until

from histgen_lib.errors import FatalError, TransientError
from histgen_lib.export import export_local
from histgen_lib.runtime.pulse import Backoff
from histgen_lib.stack.inference import CALM_S
from histgen_lib.stack.kafka import KafkaProcess
from histgen_lib.stack.processes import Process, ProcessSupervisor
from histgen_lib.stack.stubs import StubWatch
from histgen_lib.stack.triton import TritonProcess

AT_ONCE = Backoff(first_s=0.01, most_s=0.01)


@contextmanager
def kept(name: str, process: Process, **options: Any) -> Iterator[ProcessSupervisor]:
    """Keep a server while the block runs."""
    supervisor = ProcessSupervisor(name, process, backoff=AT_ONCE, **options)
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.join()


def kill(supervisor: ProcessSupervisor, times: int) -> None:
    """Kill a server as soon as it is there, so often in a row."""
    for number in range(1, times + 1):
        os.kill(until(lambda: supervisor.process.pid, 60, "its process"), signal.SIGKILL)
        until(lambda so_far=number: supervisor.restarts == so_far, 60, "it to be started again")


def test_a_tritonserver_killed_ten_times_in_a_row_comes_up(
    triton_home: Path, model_dir: Path, tmp_path: Path
) -> None:
    server = TritonProcess(
        export_local(model_dir, tmp_path / "repository"), triton_home, log=tmp_path / "triton.log"
    )
    with kept("triton", server) as supervisor:
        kill(supervisor, 10)
        assert supervisor.trouble.startswith("tritonserver was ended by SIGKILL. [triton-ended]")
        until(lambda: supervisor.state == "running", 120, "it to come up")
        assert supervisor.error is None


def test_a_model_whose_process_is_killed_while_loading_is_loaded_by_a_new_server(
    triton_home: Path, model_dir: Path, tmp_path: Path
) -> None:
    server = TritonProcess(
        export_local(model_dir, tmp_path / "repository"), triton_home, log=tmp_path / "triton.log"
    )
    with kept("triton", server) as supervisor:
        stub = until(lambda: server.stub_pids("histgen"), 60, "the model's process")[0]
        os.kill(stub, signal.SIGKILL)
        until(lambda: supervisor.state == "running", 120, "it to come up")
        assert supervisor.error is None
        watch = StubWatch(lambda: server.pid)
        assert watch.disturbed()  # it is news which there are
        assert not watch.disturbed()
        os.kill(server.stub_pids("histgen")[0], signal.SIGKILL)
        assert until(watch.disturbed, CALM_S, "the end of a stub is noticed")


def test_a_kafka_killed_during_its_first_starts_comes_up(kafka_home: Path, tmp_path: Path) -> None:
    with kept("kafka", KafkaProcess(kafka_home, tmp_path / "kafka")) as supervisor:
        kill(supervisor, 3)
        until(lambda: supervisor.state == "running", 180, "it to come up")
        assert supervisor.error is None


def test_a_kafka_whose_port_is_taken_may_come_up_later(kafka_home: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening: else it would be taken for the broker
        broker = KafkaProcess(kafka_home, tmp_path / "kafka", taken.getsockname()[1])
        with pytest.raises(TransientError) as caught:
            broker.start()
    assert caught.value.code == "kafka-ended"


def test_a_kafka_with_data_of_another_broker_is_a_fatal_error(kafka_home: Path, tmp_path: Path) -> None:
    first = KafkaProcess(kafka_home, tmp_path / "kafka")
    first.start()
    first.stop()
    marks = tmp_path / "kafka" / "logs" / "meta.properties"
    marks.write_text(marks.read_text().replace("node.id=1", "node.id=7"))
    with pytest.raises(FatalError) as caught:
        KafkaProcess(kafka_home, tmp_path / "kafka").start()
    assert caught.value.code == "kafka-failed"


def test_a_frozen_kafka_is_replaced_without_loss(kafka_home: Path, tmp_path: Path) -> None:
    noted: list[tuple[str, bool]] = []
    broker = KafkaProcess(kafka_home, tmp_path / "kafka")
    with kept("kafka", broker, frozen_s=3.0, on_end=lambda *note: noted.append(note)) as supervisor:
        until(lambda: supervisor.state == "running" and broker.answers(), 180, "it to come up")
        identity = (tmp_path / "kafka" / "logs" / "meta.properties").read_bytes()
        frozen = broker.pid
        os.kill(frozen, signal.SIGSTOP)
        until(lambda: supervisor.restarts == 1, 120, "it to be ended")
        until(lambda: supervisor.state == "running" and broker.answers(), 180, "another one")

        assert noted == [("kafka", True)]
        assert broker.pid != frozen
        assert (tmp_path / "kafka" / "logs" / "meta.properties").read_bytes() == identity


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_kafka_whose_formatting_is_killed_or_frozen_comes_up(
    number: signal.Signals, kafka_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histgen_lib.stack.kafka._START_S", 6.0)
    broker = KafkaProcess(kafka_home, tmp_path / "kafka")
    with kept("kafka", broker) as supervisor:
        os.kill(until(lambda: formatting(tmp_path / "kafka"), 60, "the formatting"), number)
        until(lambda: supervisor.state == "running", 180, "it to come up")

        assert supervisor.error is None
        assert supervisor.restarts >= 1


def formatting(data: Path) -> int | None:
    """Find the process that formats a broker's folder."""
    expected = [b"kafka.tools.StorageTool", str(data / "server.properties").encode()]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            program, *words = path.read_bytes().split(b"\0")
            if program.endswith(b"java") and all(word in words for word in expected):
                return int(path.parent.name)
    return None


def test_a_kafka_that_starts_on_a_full_disk_comes_up_once_there_is_space(
    kafka_home: Path, tmp_path: Path
) -> None:
    """Its log is on that disk, too: it cannot say why it ended."""
    with small_disk(tmp_path / "disk", 200) as disk:
        disk.fill()
        broker = KafkaProcess(kafka_home, disk.folder / "kafka")
        with kept("kafka", broker) as supervisor:
            until(lambda: supervisor.trouble, 120, "it to say what it lacks")
            assert f"The disk of {disk.folder / 'kafka'} is full" in supervisor.trouble
            disk.free()
            until(lambda: supervisor.state == "running", 180, "it to come up")
            assert supervisor.error is None
