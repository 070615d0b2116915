"""How long a model server is waited for: as long as the job may take, unless nobody is there any more."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from noop_repository import TOKENS, noop_repository
from waiting import until

from histgen_lib.errors import TransientError
from histgen_lib.inference import InferenceServer, TritonServer, _connection
from histgen_lib.models.folder import open_model_folder
from histgen_lib.stack.triton import TritonProcess
from services.settings import ServiceSettings
from services.wiring import inference_server

BUSY_S = 1.0

Bag = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def slow(
    start_triton: Callable[[Path], TritonProcess], model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> TritonProcess:
    return start_triton(noop_repository(tmp_path_factory.mktemp("slow"), model_dir, seconds=BUSY_S))


@pytest.fixture(scope="module")
def bag(model_dir: Path) -> Bag:
    width = open_model_folder(model_dir).histgen.input_dim
    return {"features": np.zeros((9, width), np.float16), "xy": np.zeros((9, 2), np.int32)}


def as_a_service(server: TritonProcess, model: Path, deadline_s: float) -> InferenceServer:
    settings = ServiceSettings.load(
        bus="embedded:/nowhere/bus.db",
        store="file:/nowhere",
        inference=server.url,
        model=model,
        deadline_s=deadline_s,
    )
    return inference_server(settings, threads=1)


def test_a_service_waits_for_an_answer_as_long_as_its_job_may_take(
    slow: TritonProcess, model_dir: Path, bag: Bag
) -> None:
    """A request that is given up sooner is never answered, however often it is sent."""
    with pytest.raises(TransientError) as caught:
        as_a_service(slow, model_dir, BUSY_S / 5).infer("histgen", bag)
    assert caught.value.code == "inference-deadline"
    for deadline_s in (1800, math.inf):
        answer = as_a_service(slow, model_dir, deadline_s).infer("histgen", bag)
        assert answer["tokens"].tolist() == list(TOKENS)


def test_a_server_that_falls_silent_is_away_long_before_the_deadline(
    slow: TritonProcess, bag: Bag, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = {"grpc.keepalive_time_ms": 200, "grpc.http2.ping_timeout_ms": 200}
    monkeypatch.setattr(_connection, "_CHANNEL", tuple((dict(_connection._CHANNEL) | hasty).items()))
    with TritonServer(slow.url, shared_memory="off", deadline_s=99) as client, ThreadPoolExecutor(1) as pool:
        client.warm("histgen")
        call = pool.submit(client.infer, "histgen", bag)
        assert slow.pid
        try:
            os.kill(slow.pid, signal.SIGSTOP)
            with pytest.raises(TransientError) as caught:
                call.result(60)
        finally:
            os.kill(slow.pid, signal.SIGCONT)
    assert caught.value.code == "inference-unavailable"
    with TritonServer(slow.url) as client:
        until(lambda: client.ready("histgen"), 60, "the server to go on")
