"""A stream's own servers: real Kafka, S3Proxy and tritonserver, which a test may kill and restart."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from faults import Fault, at
from harness import Place, Stream, kind
from servers.s3_servers import S3Server
from waiting import until

from histgen_lib.bus import BusSettings
from histgen_lib.inference import Supervisor
from histgen_lib.stack.kafka import KafkaProcess
from histgen_lib.stack.triton import TritonProcess

MODELS = {"tiler": "tile_encoder", "reporter": "histgen"}


@dataclass(frozen=True)
class Servers:
    """Broker, store and inference server of one stream."""

    kafka: KafkaProcess
    s3: S3Server
    triton: TritonProcess
    bucket: str

    def place(self, *, partitions: int = 4, session_s: float = 3.0) -> Place:
        """Return the place for a stream that uses them."""
        bus = BusSettings(self.kafka.url, partitions=partitions, session_s=session_s)
        return Place(bus, self.s3.settings(self.bucket), self.triton.url)

    def stub(self, model: str) -> int:
        """Return the process id of a model's Triton stub."""
        return until(lambda: self.triton.stub_pids(model), 60, f"the process of {model}")[0]


@contextmanager
def supervised(triton: TritonProcess) -> Iterator[None]:
    """Supervise Triton's models, as `histgen up` does."""
    supervisor = Supervisor(triton.url, triton.models)
    supervisor.start()
    try:
        yield
    finally:
        supervisor.stop()


def on_stub(stream: Stream, servers: Servers, label: str, *, after: int) -> Fault:
    """Kill the Triton stub of a worker's model while that worker has a job in hand."""
    model = MODELS[kind(label)]

    def inject() -> bool:
        os.kill(servers.stub(model), signal.SIGKILL)
        return True

    return Fault(f"stub of {model}", lambda: at(stream, label, after, "any"), inject)


def on_server(
    stream: Stream, server: KafkaProcess | TritonProcess | S3Server, label: str, *, after: int, retries: int
) -> Fault:
    """Kill a server in mid-run; restart it after workers have failed `retries` times to reach it."""

    def inject() -> bool:
        before = tried(stream)
        server.kill()
        stream.until(lambda: tried(stream) >= before + retries, 120, f"{retries} more retries")
        server.start()
        return True

    name = type(server).__name__
    return Fault(name, lambda: at(stream, label, after, "any"), inject)


def tried(stream: Stream) -> float:
    """Count the retries of the workers that are running now."""
    return sum(service.metric("histgen_retries_total") for service in stream.services.values() if service.url)
