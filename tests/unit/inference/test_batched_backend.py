"""On a GPU, the requests that Triton hands over at once reach the model at once; each has its own answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_triton import Request, TritonError, initialised

from histgen_lib.errors import InvalidInputError
from histgen_lib.inference import OnnxServer, triton_backend, wire
from histgen_lib.models.serving import Compute, Tensors
from histgen_lib.models.tile_encoder.serving import NAME

PX, WIDTH = 64, 16


@dataclass
class Doubles:
    """A runner of the tile encoder that notes how many tiles came at once, and refuses black ones."""

    seen: list[int] = field(default_factory=list)

    def infer(self, tensors: Tensors) -> dict[str, np.ndarray]:
        tiles = tensors["tiles"]
        self.seen.append(len(tiles))
        if not tiles.any(axis=(1, 2, 3)).all():
            raise InvalidInputError("tensor-shape", "A tile is black.")
        means = tiles.mean(axis=(1, 2, 3))[:, None]
        return {"features": np.broadcast_to(means, (len(tiles), WIDTH)).astype(np.float16)}


def tiles(*values: int) -> dict[str, np.ndarray]:
    return {"tiles": np.stack([np.full((PX, PX, 3), value, np.uint8) for value in values])}


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> Doubles:
    runner = Doubles()

    def load(self: OnnxServer, model: str) -> Doubles:
        return runner

    monkeypatch.setattr(OnnxServer, "load", load)
    return runner


def test_rows_of_several_requests_are_computed_at_once(doubles: Doubles, model_dir: Path) -> None:
    answers = OnnxServer(model_dir).infer_many(NAME, [tiles(1, 2), tiles(3), tiles(4, 5, 6)])
    assert doubles.seen == [6]
    found = [answer["features"][:, 0].tolist() for answer in answers if isinstance(answer, dict)]
    assert found == [[1, 2], [3], [4, 5, 6]]


def test_a_wrong_request_fails_alone(doubles: Doubles, model_dir: Path) -> None:
    wrong = {"tiles": np.ones((1, PX + 1, PX, 3), np.uint8)}
    answers = OnnxServer(model_dir).infer_many(NAME, [tiles(1), tiles(0), wrong, tiles(2, 3)])
    kinds = [type(answer) for answer in answers]
    assert kinds == [dict, InvalidInputError, InvalidInputError, dict]
    assert answers[3]["features"][:, 0].tolist() == [2, 3]  # type: ignore[index]


def hosted(folder: Path, monkeypatch: pytest.MonkeyPatch, **parameters: str) -> Any:
    """Initialise the tile encoder in a Python backend that is not Triton's."""
    stated = {wire.BATCHING: "rows", wire.VERSION: "v", wire.FOLDER: str(folder.resolve()), **parameters}
    config = {
        "parameters": {key: {"string_value": value} for key, value in stated.items()},
        "input": [{"name": "tiles", "data_type": "TYPE_UINT8"}],
    }
    return initialised(NAME, Path("/"), config, monkeypatch)


@pytest.mark.parametrize(("device", "seen"), [("cuda", [3]), ("cpu", [2, 1])])
def test_only_a_gpus_requests_are_put_together(
    device: str, seen: Sequence[int], doubles: Doubles, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = hosted(model_dir, monkeypatch, device=device)
    late, other = Request(tiles(9), "v", cancelled=True), Request(tiles(9), "w")
    answers = model.execute([Request(tiles(1, 2), "v"), late, other, Request(tiles(3), "v")])
    model.finalize()
    assert sorted(doubles.seen, reverse=True) == list(seen)
    assert [type(answer) for answer in answers] == [dict, TritonError, TritonError, dict]
    assert answers[0]["features"][:, 0].tolist() == [1, 2]
    assert answers[3]["features"][:, 0].tolist() == [3]
    assert "inference-deadline" in answers[1]
    assert "inference-other-model" in answers[2]


@pytest.mark.parametrize(
    ("visible", "device", "expected"), [(None, 1, "1"), ("4,7", 1, "7"), ("GPU-ab,GPU-cd", 0, "GPU-ab")]
)
def test_an_instance_sees_the_gpu_that_the_server_means(
    visible: str | None, device: int, expected: str
) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    triton_backend.see_only(device, environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == expected


def test_a_model_of_engines_is_loaded_by_their_own_runner(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from histgen_lib.models.engines import serving

    asked: list[Any] = []

    def runner(_: Any, name: str, compute: Compute, *, machine: str, digests: dict[str, str]) -> Doubles:
        asked.append((name, compute.device, compute.precision, machine, digests))
        return Doubles()

    monkeypatch.setattr(serving, "this_machine", lambda flavour: f"a machine with {flavour}")
    monkeypatch.setattr(serving, "engine_runner", runner)
    networks = {"tile_encoder": "ab"}
    stated = {"engines": "tensorrt-rtx", "networks": json.dumps(networks)}
    model = hosted(model_dir, monkeypatch, device="cuda", precision="float16", **stated)
    model.finalize()
    assert asked == [(NAME, "cuda", "float16", "a machine with tensorrt-rtx", networks)]
