"""The retrieval network's graphs compute what torch computes, and servers host them where they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_retrieval import SPAN_PX, add_retrieval, planted_bag, tiny_retrieval_model

from histgen_lib.errors import InvalidInputError
from histgen_lib.export import export_local
from histgen_lib.export.targets import export_to
from histgen_lib.inference import OnnxServer
from histgen_lib.models.fgcr import find_regions
from histgen_lib.models.fgcr.batches import slides_of, texts_of
from histgen_lib.models.fgcr.checkpoint import load_retrieval
from histgen_lib.models.fgcr.words import load_words

RETRIEVAL = {"fgcr_image", "fgcr_text"}


@pytest.fixture(scope="module", params=["corrected", "published"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    copy = Path(shutil.copytree(model_dir, tmp_path_factory.mktemp("retrieval") / "model"))
    return add_retrieval(copy, mode=request.param)


def models_in(repository: Path) -> set[str]:
    return {path.parent.name for path in repository.glob("*/config.pbtxt")}


@pytest.mark.parametrize("side", [1, 2, 9, 40])
def test_a_slide_of_any_size_has_torchs_vectors(side: int, folder: Path) -> None:
    network, server = load_retrieval(folder), OnnxServer(folder)
    features, xy, _ = planted_bag(1, 3, side=max(side, 3))
    features, xy = features[: side * side], xy[: side * side]
    regions = find_regions(xy, SPAN_PX, network.config)
    with torch.no_grad():
        seen = network.see(slides_of([(features, regions)]))
    found = server.infer(
        "fgcr_image", {"features": features, "xy": xy, "span_px": np.array([SPAN_PX], np.float32)}
    )
    assert np.abs(found["slide"] - seen.vector[0].numpy()).max() <= 1e-5
    assert np.abs(found["regions"] - seen.regions[0].numpy()).max() <= 1e-5
    assert np.array_equal(found["boxes"], regions.boxes)
    assert np.allclose(np.linalg.norm(found["regions"], axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("text", ["", "Fibroadenoma", "grade 2 " * 100])
def test_a_text_of_any_length_has_torchs_vector(text: str, folder: Path) -> None:
    network, server = load_retrieval(folder), OnnxServer(folder)
    tokens = load_words(server.folder).encode(text)
    with torch.no_grad():
        expected = network.read(texts_of([tokens])).vector[0].numpy()
    assert np.abs(server.infer("fgcr_text", {"tokens": tokens})["vector"] - expected).max() <= 1e-5


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    features, xy, _ = planted_bag(2, 4, side=60)
    request = {"features": features.astype(np.float16), "xy": xy}
    answers = [
        OnnxServer(tiny_retrieval_model(), threads=n).infer("fgcr_image", request) for n in (1, 2, None)
    ]
    assert len({tuple(value.tobytes() for value in answer.values()) for answer in answers}) == 1


@pytest.mark.parametrize(
    ("model", "tensors", "code"),
    [
        (
            "fgcr_image",
            {"features": np.zeros((3, 5), np.float32), "xy": np.zeros((3, 2), np.int32)},
            "bag-shape",
        ),
        (
            "fgcr_image",
            {"features": np.zeros((3, 16), np.float32), "xy": np.zeros((2, 2), np.int32)},
            "bag-shape",
        ),
        (
            "fgcr_image",
            {"features": np.zeros((0, 16), np.float32), "xy": np.zeros((0, 2), np.int32)},
            "bag-empty",
        ),
        (
            "fgcr_image",
            {"features": np.full((1, 16), np.nan, np.float32), "xy": np.zeros((1, 2), np.int32)},
            "bag-not-finite",
        ),
        (
            "fgcr_image",
            {
                "features": np.zeros((1, 16), np.float32),
                "xy": np.zeros((1, 2), np.int32),
                "span_px": np.zeros(1, np.float32),
            },
            "bag-shape",
        ),
        (
            "fgcr_image",
            {"features": np.zeros((2, 16), np.float32), "xy": np.array([[0, 0], [2**31 - 1, 0]], np.int32)},
            "bag-shape",
        ),
        (
            "fgcr_image",
            {
                "features": np.zeros((1, 16), np.float32),
                "xy": np.zeros((1, 2), np.int32),
                "span_px": np.full(1, 1e30, np.float32),
            },
            "bag-shape",
        ),
        ("fgcr_text", {}, "tensor-missing"),
        ("fgcr_text", {"tokens": np.zeros(0, np.int32)}, "tensor-shape"),
        ("fgcr_text", {"tokens": np.ones(65, np.int32)}, "tensor-shape"),
        ("fgcr_text", {"tokens": np.array([10_000], np.int32)}, "tokens-unknown"),
        ("fgcr_text", {"tokens": np.array([-1], np.int32)}, "tokens-unknown"),
    ],
)
def test_what_does_not_fit_is_refused(model: str, tensors: dict[str, np.ndarray], code: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        OnnxServer(tiny_retrieval_model()).infer(model, tensors)
    assert caught.value.code == code


def test_servers_host_what_the_folder_has(model_dir: Path, tmp_path: Path) -> None:
    """With the network four models, without it two, and none is left of an earlier export."""
    export_local(tiny_retrieval_model(), tmp_path / "repository")
    assert models_in(tmp_path / "repository") == {"histgen", "tile_encoder"} | RETRIEVAL
    files = {path.name for path in (tmp_path / "repository" / "fgcr_image" / "1").iterdir()}
    assert files == {"model.py", "config.json", "graphs.json", "fgcr_image.onnx"}
    export_local(model_dir, tmp_path / "repository")
    assert models_in(tmp_path / "repository") == {"histgen", "tile_encoder"}
    assert OnnxServer(tiny_retrieval_model()).ready("fgcr_text")
    assert not OnnxServer(model_dir).ready("fgcr_text")


def test_other_targets_run_it_on_the_processor(tmp_path: Path) -> None:
    export_to("onnxruntime", tiny_retrieval_model(), tmp_path)
    assert models_in(tmp_path) == {"histgen", "tile_encoder"} | RETRIEVAL
    for model in RETRIEVAL:
        config = (tmp_path / model / "config.pbtxt").read_text()
        assert 'backend: "python"' in config
        assert "KIND_CPU" in config
