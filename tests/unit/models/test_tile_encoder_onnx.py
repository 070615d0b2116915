"""Tile encoders in ONNX: every family exports with its preprocessing, and any ONNX file is an encoder."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from onnx import TensorProto, helper

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.export.onnx import export_tile_encoder
from histgen_lib.models.tile_encoder.registry import TileNetwork, find_encoder, new_network

TILE_PX = 96
TILES = torch.randint(
    0, 256, (3, TILE_PX, TILE_PX, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
SMALL = "depth=2&embed_dim=96&num_heads=4"
FAMILIES = {
    "vision transformer": f"uni?{SMALL}&img_size=64",
    "registers, gated layers, class and patch tokens": f"virchow2?{SMALL}&img_size=56",
    "centre crop": f"prov-gigapath?{SMALL}&img_size=64",
    "attention pooling": f"conch?{SMALL}&img_size=64",
    "shifted windows": "ctranspath?embed_dim=24&depths=2,1&num_heads=1,2&img_size=56",
    "convolutions": "resnet50-stage3?layers=1,1,1,1&side=64",
}


def run(path: Path, tiles: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (features,) = session.run(["features"], {"tiles": tiles.numpy()})
    return np.asarray(features)


def own_graph(network: TileNetwork, folder: Path) -> Path:
    graph = network.own_graph(TILE_PX)
    assert graph is not None
    (folder / "own.onnx").write_bytes(graph)
    return folder / "own.onnx"


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_graph_gives_the_networks_features_for_any_number_of_tiles(family: str, tmp_path: Path) -> None:
    network = find_encoder(FAMILIES[family], seed_fresh=True).network
    path = export_tile_encoder(network, tmp_path / "tile_encoder.onnx", TILE_PX)
    for count in (1, 3):
        features = network(TILES[:count]).numpy()
        assert np.abs(run(path, TILES[:count]) - features).max() <= 1e-4 * np.abs(features).max()


def test_a_graph_casts_pixels_before_it_moves_them(tmp_path: Path) -> None:
    """TensorRT refuses to transpose uint8."""
    network = find_encoder(FAMILIES["vision transformer"], seed_fresh=True).network
    graph = onnx.load(export_tile_encoder(network, tmp_path / "tile_encoder.onnx", TILE_PX)).graph
    assert [node.op_type for node in graph.node if "tiles" in node.input] == ["Cast"]


@pytest.fixture(scope="module")
def of_pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a network that takes normalised pixels, as others do: another operator set, other names."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("onnx") / "encoder.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter warns of its successor
        torch.onnx.export(
            timm.create_model("test_vit", num_classes=0).eval(),
            (torch.zeros(2, 3, 160, 160),),
            str(path),
            input_names=["x"],
            dynamic_axes={"x": {0: "N"}},
            opset_version=18,
            dynamo=False,
        )
    return path


def test_an_onnx_file_of_pixels_is_an_encoder_with_preprocessing_before_it(
    of_pixels: Path, tmp_path: Path
) -> None:
    built = find_encoder(f"onnx:{of_pixels}?mean=0.5,0.5,0.5&std=0.5,0.5,0.5&interpolation=bilinear")
    assert (built.dim, built.network.input_px) == (64, 160)
    torch.manual_seed(0)
    timms = timm.create_model("test_vit", num_classes=0).eval()
    with torch.inference_mode():
        expected = timms(built.network.pixels(TILES)).numpy()
    assert np.allclose(built.network(TILES).numpy(), expected, atol=1e-4)
    assert np.allclose(run(own_graph(built.network, tmp_path), TILES), expected, atol=1e-4)


def test_a_model_folder_keeps_an_onnx_file_as_it_keeps_weights(of_pixels: Path) -> None:
    network = find_encoder(f"onnx:{of_pixels}").network
    again = new_network(network.describe())
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(TILES), network(TILES))
    assert str(of_pixels.parent) not in str(network.describe())


def test_an_onnx_file_of_tiles_is_taken_as_it_is(tmp_path: Path) -> None:
    network = find_encoder(FAMILIES["vision transformer"], seed_fresh=True).network
    path = export_tile_encoder(network, tmp_path / "tile_encoder.onnx", TILE_PX)
    built = find_encoder(f"onnx:{path}")
    assert built.settings["preprocessing"] is None
    assert np.array_equal(built.network(TILES).numpy(), run(path, TILES))
    assert np.array_equal(run(own_graph(built.network, tmp_path), TILES), run(path, TILES))


def _graph(path: Path, kind: int, shape: list[int | str]) -> Path:
    node = helper.make_node("Identity", ["a"], ["b"])
    values = [helper.make_tensor_value_info(name, kind, shape) for name in "ab"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("kind", "shape", "complaint"),
    [
        (TensorProto.FLOAT, ["B", 5], "input"),
        (TensorProto.UINT8, ["B", 3, 8, 8], "input"),
        (TensorProto.FLOAT, ["B", 3, 8, 8], "output"),
    ],
)
def test_an_onnx_file_of_something_else_is_refused(
    kind: int, shape: list[int | str], complaint: str, tmp_path: Path
) -> None:
    path = _graph(tmp_path / "other.onnx", kind, shape)
    with pytest.raises(FatalError, match=complaint) as caught:
        find_encoder(f"onnx:{path}")
    assert caught.value.code == "encoder-onnx"


@pytest.mark.parametrize("content", [None, b"junk"])
def test_an_unreadable_onnx_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FatalError) as caught:
        find_encoder(f"onnx:{path}")
    assert caught.value.code == "encoder-onnx"


def test_an_onnx_file_takes_no_arguments_of_an_architecture(of_pixels: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        find_encoder(f"onnx:{of_pixels}?depth=2")
    assert caught.value.code == "encoder-arguments"
