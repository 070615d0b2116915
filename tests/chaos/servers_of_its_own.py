"""A stream's own servers: real Kafka, S3Proxy and tritonserver, which a test may kill and start again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from blows import Blow, at
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
        """Say where they are."""
        bus = BusSettings(self.kafka.url, partitions=partitions, session_s=session_s)
        return Place(bus, self.s3.settings(self.bucket), self.triton.url)

    def stub(self, model: str) -> int:
        """Return the process id of what runs a model inside Triton."""
        return until(lambda: self.triton.stub_pids(model), 60, f"the process of {model}")[0]


@contextmanager
def supervised(triton: TritonProcess) -> Iterator[None]:
    """Have Triton's models looked after, as `histgen up` does."""
    supervisor = Supervisor(triton.url, triton.models)
    supervisor.start()
    try:
        yield
    finally:
        supervisor.stop()


def on_stub(stream: Stream, servers: Servers, label: str, *, after: int) -> Blow:
    """Kill the process that runs a worker's model, while that worker has a job in hand."""
    model = MODELS[kind(label)]

    def strike() -> bool:
        os.kill(servers.stub(model), signal.SIGKILL)
        return True

    return Blow(f"stub of {model}", lambda: at(stream, label, after, "any"), strike)


def on_server(
    stream: Stream, server: KafkaProcess | TritonProcess | S3Server, label: str, *, after: int, retries: int
) -> Blow:
    """Kill a server in mid-run; it comes back when workers have tried `retries` times in vain to reach it."""

    def strike() -> bool:
        before = tried(stream)
        server.kill()
        stream.until(lambda: tried(stream) >= before + retries, 120, f"{retries} more retries")
        server.start()
        return True

    name = type(server).__name__
    return Blow(name, lambda: at(stream, label, after, "any"), strike)


def tried(stream: Stream) -> float:
    """Count how often the workers that run now tried something again."""
    return sum(service.metric("histgen_retries_total") for service in stream.services.values() if service.url)
