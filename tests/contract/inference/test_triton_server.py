"""A real tritonserver keeps the contract, and its answers equal those of ONNX Runtime bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inference_suite import TILES, InferenceServerSuite, bag

from histgen_lib.inference import InferenceServer, OnnxServer, TritonServer, open_inference
from histgen_lib.models.folder import open_model_folder
from histgen_lib.stack.triton import TritonProcess


@pytest.fixture(scope="module")
def width(model_dir: Path) -> int:
    return open_model_folder(model_dir).histgen.input_dim


@pytest.fixture(scope="module", params=["auto", "off"], ids=["shared memory", "network"])
def server(triton: TritonProcess, request: pytest.FixtureRequest) -> Iterator[TritonServer]:
    with TritonServer(triton.url, shared_memory=request.param) as client:
        yield client


@pytest.fixture(scope="module")
def in_process(model_dir: Path) -> OnnxServer:
    return OnnxServer(model_dir, threads=2)


class TestTritonServer(InferenceServerSuite):
    """The shared suite on `TritonServer`, with and without shared memory."""


def answers_of(server: InferenceServer, requests: list[tuple[str, dict[str, np.ndarray]]]) -> list[Any]:
    return [bits(server.infer(*request)) for request in requests]


def bits(answer: Mapping[str, np.ndarray]) -> dict[str, tuple[Any, ...]]:
    return {name: (value.dtype.name, value.shape, value.tobytes()) for name, value in answer.items()}


def varied_requests(width: int) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Return requests of all kinds: few and many tiles, several dtypes, all methods, a case, a long slide."""
    large = np.random.default_rng(1).integers(0, 256, size=(150, 64, 64, 3), dtype=np.uint8)
    requests: list[tuple[str, dict[str, np.ndarray]]] = [
        ("tile_encoder", {"tiles": large[:count]}) for count in (1, 5, 32, 64, 65, 150)
    ]
    requests += [("histgen", bag(tiles, width)) for tiles in (1, 4, 9, 64, 2500)]
    one = bag(40, width)
    return [
        *requests,
        ("histgen", one | {"features": one["features"].astype(np.float32) * 1.1}),
        ("histgen", one | {"features": one["features"].astype(np.float64) * 1.1}),
        ("histgen", one | {"slide": np.repeat([0, 1, 2], [7, 30, 3])}),
        ("histgen", one | {"span_px": np.array([300.0]), "beam_size": np.array([5])}),
        ("histgen", one | {"method": np.array(["greedy"]), "max_tokens": np.array(9)}),
        *(
            (
                "histgen",
                one | {"method": np.array(["sample"]), "seed": np.array([seed]), "top_p": np.array([0.7])},
            )
            for seed in range(3)
        ),
    ]


def test_the_answers_equal_those_in_process_bit_for_bit(
    server: TritonServer, in_process: OnnxServer, width: int
) -> None:
    requests = varied_requests(width)
    assert answers_of(server, requests) == answers_of(in_process, requests)


def test_answers_do_not_depend_on_concurrent_requests(server: TritonServer, width: int) -> None:
    """Twelve threads mix requests in the server's batches; each answer equals that of a quiet server."""
    requests = varied_requests(width)
    quiet = answers_of(server, requests)
    order = np.random.default_rng(5).permutation(np.repeat(np.arange(len(requests)), 2))
    with ThreadPoolExecutor(12) as pool:
        busy = list(pool.map(lambda place: bits(server.infer(*requests[place])), order))
    assert all(answer == quiet[place] for answer, place in zip(busy, order, strict=True))


@pytest.mark.parametrize("threads", [1, 3, None])
def test_answers_do_not_depend_on_threads(
    in_process: OnnxServer, model_dir: Path, width: int, threads: int | None
) -> None:
    requests = varied_requests(width)[3:9]
    assert answers_of(OnnxServer(model_dir, threads), requests) == answers_of(in_process, requests)


def test_its_metadata_equals_that_in_process(server: TritonServer, in_process: OnnxServer) -> None:
    for model in ("tile_encoder", "histgen"):
        assert server.metadata(model) == in_process.metadata(model)


def test_an_address_opens_the_server_behind_it(triton: TritonProcess, model_dir: Path, width: int) -> None:
    here, there = open_inference("onnx", model_dir, threads=1), open_inference(triton.url, model_dir)
    assert isinstance(here, OnnxServer)
    assert isinstance(there, TritonServer)
    assert bits(here.infer("tile_encoder", {"tiles": TILES})) == bits(
        there.infer("tile_encoder", {"tiles": TILES})
    )
    there.close()
