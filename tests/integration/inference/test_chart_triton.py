"""The chart's arguments for Triton, on a real one: health is open, everything else needs the secret."""

from __future__ import annotations

import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from chart_rendering import merged, one, render, set_at, values_of
from noop_repository import noop_repository
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException
from waiting import until

from histgen_lib.inference import TritonServer
from histgen_lib.stack.children import free_port
from histgen_lib.stack.triton import TritonProcess

SECRET = "0123abcd"


class ChartTriton(TritonProcess):
    """A tritonserver with the chart's arguments; ports and folders are this machine's."""

    port, metrics_port, host = 0, 0, "0.0.0.0"

    @property
    def url(self) -> str:
        return f"triton://127.0.0.1:{self.port}"

    def _options(self, server: Path, _: int) -> list[str]:
        values = merged(values_of("hospital"), set_at("host", self.host))
        pod = one(render(values), "Deployment", "lab-histgen-triton")["spec"]["template"]
        container, *_ = pod["spec"]["containers"]
        assert container["command"] == ["tritonserver"]
        here = {
            "/models/repository": str(self._repository),
            "$(TRITON_SECRET)": SECRET,
            "--grpc-port=8001": f"--grpc-port={self.port}",
            "--metrics-port=8002": f"--metrics-port={self.metrics_port}",
        }
        arguments = container["args"]
        for theirs, ours in here.items():
            assert any(theirs in argument for argument in arguments), theirs
            arguments = [argument.replace(theirs, ours) for argument in arguments]
        regions = f"--backend-config=python,shm-region-prefix-name={self._regions}"
        return [*arguments, regions, f"--backend-directory={server / 'backends'}"]

    def _await(self, process: subprocess.Popen[bytes], *_: object) -> None:
        with TritonServer(self.url, shared_memory="off", secret=SECRET) as client:
            until(lambda: all(client.ready(model) for model in self.models), 90, "the chart's Triton")


@pytest.fixture(
    scope="module",
    params=[
        "0.0.0.0",
        pytest.param(
            "::", marks=pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 on this machine")
        ),
    ],
)
def triton(
    request: pytest.FixtureRequest,
    triton_home: Path,
    model_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ChartTriton]:
    place = tmp_path_factory.mktemp("chart-triton")
    server = ChartTriton(noop_repository(place, model_dir), triton_home, log=place / "log")
    server.port, server.metrics_port, server.host = free_port(), free_port(), request.param
    server.start()
    yield server
    server.kill()


def address(triton: ChartTriton) -> str:
    """Return an address of the family that the pod has; its containers ask 127.0.0.1 either way."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}[triton.host]


def probe(place: str) -> int:
    """Ask as the kubelet does: grpc.health.v1.Health/Check of the whole server, without a secret."""
    with grpc.insecure_channel(place) as channel:
        answer = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5)
    assert answer[:1] == b"\x08"  # HealthCheckResponse.status, a varint
    return answer[1]


def test_the_kubelet_may_ask_whether_it_serves(triton: ChartTriton) -> None:
    assert probe(f"{address(triton)}:{triton.port}") == 1  # SERVING


def test_its_metrics_are_served(triton: ChartTriton) -> None:
    url = f"http://{address(triton)}:{triton.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    assert 'nv_inference_pending_request_count{model="histgen"' in text


def test_without_the_secret_nothing_but_health_is_answered(triton: ChartTriton) -> None:
    with InferenceServerClient(f"127.0.0.1:{triton.port}") as client:
        assert client.is_server_ready()
        calls: dict[str, Callable[[], object]] = {
            "load": lambda: client.load_model("histgen"),
            "unload": lambda: client.unload_model("histgen"),
            "index": client.get_model_repository_index,
            "config": lambda: client.get_model_config("histgen"),
            "metadata": client.get_server_metadata,
            "memory": client.get_system_shared_memory_status,
            "statistics": client.get_inference_statistics,
            "trace": client.get_trace_settings,
            "logging": client.get_log_settings,
            "infer": lambda: client.infer("histgen", []),
        }
        for name, call in calls.items():
            with pytest.raises(InferenceServerException) as caught:
                call()
            assert "restricted" in str(caught.value), name
