"""Every inference server embeds slides and texts where its model folder has a retrieval network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_retrieval import planted_bag, report_of, tiny_retrieval_model

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.export import export_local
from histgen_lib.inference import InferenceServer, OnnxServer, TritonServer
from histgen_lib.models.fgcr.words import load_words
from histgen_lib.models.folder import open_model_folder
from histgen_lib.stack.triton import TritonProcess
from histgen_lib.testing import FakeInference


@pytest.fixture(scope="module")
def triton_client(
    start_triton: Callable[[Path], TritonProcess], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    repository = export_local(tiny_retrieval_model(), tmp_path_factory.mktemp("retrieval") / "repository")
    with TritonServer(start_triton(repository).url) as client:
        yield client


@pytest.fixture(params=["fake", "onnx", "triton"])
def server(request: pytest.FixtureRequest) -> InferenceServer:
    if request.param == "triton":
        client: TritonServer = request.getfixturevalue("triton_client")
        return client
    return (FakeInference if request.param == "fake" else OnnxServer)(tiny_retrieval_model())


def slide(side: int, kind: int = 1) -> dict[str, np.ndarray]:
    features, xy, _ = planted_bag(kind, 0, side=side)
    return {"features": features.astype(np.float16), "xy": xy, "span_px": np.array([256], np.float32)}


def tokens(text: str) -> dict[str, np.ndarray]:
    return {"tokens": load_words(open_model_folder(tiny_retrieval_model())).encode(text)}


@pytest.mark.parametrize("side", [3, 9, 60])
def test_a_slide_becomes_vectors_of_unit_length_with_boxes(server: InferenceServer, side: int) -> None:
    found = server.infer("fgcr_image", slide(side))
    regions = min(25, side * side)
    assert {name: (value.shape, value.dtype.name) for name, value in found.items()} == {
        "slide": ((16,), "float32"),
        "regions": ((regions, 16), "float32"),
        "boxes": ((regions, 4), "int32"),
    }
    assert np.allclose(np.linalg.norm(found["slide"]), 1, atol=1e-5)
    assert np.allclose(np.linalg.norm(found["regions"], axis=1), 1, atol=1e-5)
    assert (found["boxes"] >= 0).all()
    assert (found["boxes"][:, :2] + found["boxes"][:, 2:] <= side * 256).all()


@pytest.mark.parametrize("text", ["", "fibroadenoma", "grade 2 " * 100])
def test_a_text_becomes_a_vector_of_unit_length(server: InferenceServer, text: str) -> None:
    vector = server.infer("fgcr_text", tokens(text))["vector"]
    assert (vector.shape, vector.dtype) == ((16,), np.float32)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_models_are_ready_and_described(server: InferenceServer) -> None:
    for model, request in {"fgcr_image": slide(5), "fgcr_text": tokens("grade")}.items():
        assert server.ready(model)
        server.warm(model)
        answer, described = server.infer(model, request), server.metadata(model)
        assert {spec.name for spec in described.inputs} == set(request)
        assert {spec.name: spec.dtype for spec in described.outputs} == {
            name: value.dtype.name for name, value in answer.items()
        }


@pytest.mark.parametrize(
    ("model", "changes", "code"),
    [
        ("fgcr_image", {"xy": None}, "tensor-missing"),
        ("fgcr_image", {"features": np.zeros((25, 3), np.float32)}, "bag-shape"),
        ("fgcr_image", {"xy": np.zeros((4, 2), np.int32)}, "bag-shape"),
        ("fgcr_image", {"span_px": np.array([-1], np.float32)}, "bag-shape"),
        ("fgcr_image", {"features": np.full((25, 16), np.inf, np.float32)}, "bag-not-finite"),
        ("fgcr_image", {"slide": np.zeros(25, np.int32)}, "tensor-unknown"),
        ("fgcr_text", {"tokens": np.array(["grade"])}, "tensor-shape"),
        ("fgcr_text", {"tokens": np.array([9999], np.int32)}, "tokens-unknown"),
        ("fgcr_text", {"tokens": np.ones(1000, np.int32)}, "tensor-shape"),
    ],
)
def test_what_does_not_fit_is_refused(
    server: InferenceServer, model: str, changes: dict[str, np.ndarray | None], code: str
) -> None:
    whole = slide(5) if model == "fgcr_image" else tokens("grade")
    given = {name: value for name, value in (whole | changes).items() if value is not None}
    with pytest.raises(InvalidInputError) as caught:
        server.infer(model, given)
    assert caught.value.code == code


def test_triton_answers_as_in_process_bit_for_bit_whoever_else_asks(triton_client: TritonServer) -> None:
    here = OnnxServer(tiny_retrieval_model(), threads=2)
    requests = [("fgcr_image", slide(side, kind)) for side in (3, 9, 50) for kind in (0, 1)]
    requests += [("fgcr_text", tokens(report_of(kind))) for kind in range(4)]

    def bits(server: InferenceServer, place: int) -> dict[str, bytes]:
        return {name: value.tobytes() for name, value in server.infer(*requests[place]).items()}

    order = np.random.default_rng(5).permutation(np.repeat(np.arange(len(requests)), 3))
    with ThreadPoolExecutor(8) as pool:
        there = list(pool.map(lambda place: bits(triton_client, place), order))
    assert all(answer == bits(here, place) for answer, place in zip(there, order, strict=True))
    for model in ("fgcr_image", "fgcr_text"):
        assert triton_client.metadata(model) == here.metadata(model)


def test_a_folder_without_the_network_serves_none(model_dir: Path) -> None:
    assert not OnnxServer(model_dir).ready("fgcr_image")
    with pytest.raises(FatalError) as caught:
        OnnxServer(model_dir).infer("fgcr_image", slide(3))
    assert caught.value.code == "model-incomplete"
    with pytest.raises(FatalError) as caught:
        FakeInference(model_dir).infer("fgcr_text", tokens("a"))
    assert caught.value.code == "inference-model-unknown"
