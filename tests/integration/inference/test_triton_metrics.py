"""The local Triton tells Prometheus how its models fare: on loopback only, and wherever it is now."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from service_access import listening
from waiting import until

from histgen_lib.export import export_local
from histgen_lib.inference import TritonServer
from histgen_lib.models.serving import smallest
from histgen_lib.stack.processes import ProcessSupervisor
from histgen_lib.stack.triton import TritonProcess

LOOPBACK = "0100007F"
MODELS = ("histgen", "tile_encoder")
COUNTED = (
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_pending_request_count",
)
"""Metrics of each model that rules and dashboards ask for."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("measured")


@pytest.fixture(scope="module")
def kept(triton_home: Path, model_dir: Path, place: Path) -> Iterator[ProcessSupervisor]:
    """Keep a server whose metrics are listed in a folder."""
    repository = export_local(model_dir, place / "repository")
    server = TritonProcess(repository, triton_home, log=place / "triton.log", run_dir=place / "run")
    supervisor = ProcessSupervisor("triton", server)
    supervisor.start()
    until(lambda: supervisor.state == "running", 240, "the server")
    yield supervisor
    supervisor.ask_stop()
    supervisor.join()
    assert targets(place) == []


def targets(place: Path) -> list[dict[str, Any]]:
    return [
        one for path in (place / "run" / "targets").glob("*.json") for one in json.loads(path.read_bytes())
    ]


def address(place: Path) -> str:
    (target,) = targets(place)
    (found,) = target["targets"]
    return str(found)


def values(place: Path, name: str) -> dict[str, float]:
    """Return a metric's values by model."""
    text = httpx.get(f"http://{address(place)}/metrics", timeout=10).text
    lines = re.findall(rf'^{name}{{[^}}]*model="(\w+)"[^}}]*}} (\S+)$', text, re.MULTILINE)
    return {model: float(value) for model, value in lines}


def ask(kept: ProcessSupervisor, model: str) -> None:
    server = kept.process
    assert isinstance(server, TritonProcess)
    with TritonServer(server.url) as client:
        client.infer(model, smallest(client.metadata(model)))


@pytest.mark.parametrize("name", COUNTED)
def test_what_rules_and_dashboards_ask_for_is_there_after_a_request(kept, place, name) -> None:
    for model in MODELS:
        ask(kept, model)
    assert set(values(place, name)) >= set(MODELS)


def test_requests_are_counted(kept, place) -> None:
    before = values(place, "nv_inference_request_success")["histgen"]
    ask(kept, "histgen")
    until(lambda: values(place, "nv_inference_request_success")["histgen"] == before + 1, 60, "one more")


def test_it_listens_on_loopback_only_and_answers_nothing_else(kept, place) -> None:
    """Other accounts may read the numbers, but ask nothing of a model."""
    ((host, port),) = listening(kept.process.pid)
    assert (host, f"127.0.0.1:{port}") == (LOOPBACK, address(place))
    base = f"http://{address(place)}"
    for path in ("/", "/v2", "/v2/models/histgen", "/v2/repository/index"):
        assert httpx.get(base + path, timeout=10).content == b""
    for path in ("/metrics", "/v2/models/histgen/infer", "/v2/repository/models/evil/load"):
        assert httpx.post(base + path, timeout=10).status_code == httpx.codes.METHOD_NOT_ALLOWED


def test_the_list_says_what_prometheus_needs(kept, place) -> None:
    (target,) = targets(place)
    assert target["labels"] == {"job": "histgen-triton", "service": "triton"}


def test_a_server_that_was_killed_is_listed_where_it_is_now(kept, place) -> None:
    old, before = kept.process.pid, address(place)
    os.kill(old, signal.SIGKILL)
    until(lambda: kept.restarts and kept.state == "running", 240, "the next server")

    assert kept.process.pid != old
    assert before != address(place)
    ask(kept, "histgen")
    assert values(place, "nv_inference_request_success")["histgen"] >= 1
    assert np.isfinite(values(place, "nv_inference_queue_duration_us")["histgen"])
