"""Encoders in int8: what it costs is measured on other tiles, too much is refused, and bags can tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_model
import torch

from histgen_lib.errors import InvalidInputError
from histgen_lib.export import quantisation
from histgen_lib.export.engines.build import build_engine
from histgen_lib.export.engines.stored import folder_tile_graph
from histgen_lib.export.external_data import data_path
from histgen_lib.export.hosting import Choices
from histgen_lib.export.int8_folder import calibration_tiles, int8_folder
from histgen_lib.export.quantisation import Likeness, compare, features, quantise
from histgen_lib.export.targets import export_to
from histgen_lib.export.tile_graph import export_tile_encoder
from histgen_lib.inference import OnnxServer
from histgen_lib.models.engines.flavours import flavour
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.histgen.checkpoint import load_tile_encoder
from histgen_lib.models.tile_encoder import TileEncoder
from histgen_lib.slides import TilingSettings

PX = 32


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the graph of a small encoder."""
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("float")
    return export_tile_encoder(TileEncoder(12, widths=(8, 16, 24)), folder / "tile_encoder.onnx", PX)


def some_tiles(count: int, seed: int = 0) -> np.ndarray:
    """Make tiles that differ in colour and grain."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(60, 230, (count, 1, 1, 3))
    grain = rng.normal(size=(count, PX, PX, 3)) * rng.uniform(2, 40, (count, 1, 1, 1))
    return np.clip(colours + grain, 0, 255).astype(np.uint8)


def kinds(graph: Path) -> list[str]:
    return [node.op_type for node in onnx.load(graph).graph.node]


def test_the_figures_are_those_of_the_graph_on_held_out_tiles(encoder: Path, tmp_path: Path) -> None:
    tiles = some_tiles(40)
    found = quantise(encoder, tmp_path / "int8.onnx", tiles)
    assert (found.calibration_tiles, found.held_out_tiles) == (30, 10)
    held_out = tiles[::4]
    again = compare(features(encoder, held_out), features(tmp_path / "int8.onnx", held_out))
    assert again == found.likeness
    assert found.likeness.reaches(quantisation.LEAST)
    assert found.likeness.lowest <= found.likeness.cosine < 1
    assert kinds(tmp_path / "int8.onnx").count("QuantizeLinear") > 0


def test_weights_beside_the_graph_are_quantised_alike(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(2)
    network = TileEncoder(12, widths=(8, 16, 24))
    apart = export_tile_encoder(network, tmp_path / "tile_encoder.onnx", PX, inline_bytes=4096)
    assert data_path(apart).is_file()
    expected = quantise(encoder, tmp_path / "inside.onnx", some_tiles(24))
    assert quantise(apart, tmp_path / "int8" / "int8.onnx", some_tiles(24)) == expected
    inside, outside = (features(tmp_path / one, some_tiles(3)) for one in ("inside.onnx", "int8/int8.onnx"))
    assert np.array_equal(inside, outside)
    assert {path.name for path in (tmp_path / "int8").iterdir()} <= {"int8.onnx", "int8.onnx.data"}


def test_weights_have_a_scale_for_each_channel_and_no_offset(encoder: Path, tmp_path: Path) -> None:
    """TensorRT takes no others. Processors without VNNI compute with no larger ones."""
    quantise(encoder, tmp_path / "int8.onnx", some_tiles(24))
    graph = onnx.load(tmp_path / "int8.onnx").graph
    held = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in held]
    assert weights
    assert all(held[node.input[0]].dtype == np.int8 for node in weights)
    assert all(held[node.input[1]].size > 1 for node in weights)
    assert {int(np.abs(held[node.input[0]]).max()) for node in weights} == {64}, "overflows without VNNI"
    offsets = [held[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert not any(offset.any() for offset in offsets)


def test_layers_stay_in_float_until_the_features_agree(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    easy = quantise(encoder, tmp_path / "easy.onnx", some_tiles(40))
    monkeypatch.setattr(quantisation, "LEAST", Likeness(cosine=0.99, centred=0.9846))
    hard = quantise(encoder, tmp_path / "hard.onnx", some_tiles(40))
    assert easy.kept == 0 < hard.kept < hard.layers
    assert hard.likeness.centred > easy.likeness.centred
    fewer, more = (kinds(tmp_path / f"{one}.onnx").count("QuantizeLinear") for one in ("hard", "easy"))
    assert fewer < more


def test_an_encoder_that_loses_too_much_is_refused(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisation, "LEAST", Likeness(cosine=1.01, centred=0))
    with pytest.raises(InvalidInputError) as caught:
        quantise(encoder, tmp_path / "int8.onnx", some_tiles(24))
    assert caught.value.code == "export-int8-loss"
    assert list(tmp_path.iterdir()) == []


def test_a_handful_of_tiles_is_no_calibration(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        quantise(encoder, tmp_path / "int8.onnx", some_tiles(15))
    assert caught.value.code == "export-int8-tiles"


def test_cosines_are_of_rows_and_about_the_mean() -> None:
    expected = np.array([[3, 4], [4, 3]], np.float32)
    found = np.array([[3, 4], [3, 4]], np.float32)
    assert compare(expected, found) == Likeness(
        cosine=pytest.approx(0.98), centred=pytest.approx(0.0), lowest=pytest.approx(0.96)
    )


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("slides")
    return [tiny_model.write_slide(folder / f"{seed}.tif", seed=seed) for seed in (1, 2)]


def test_tiles_come_from_every_slide_and_are_the_same_again(slides: list[Path], model_dir: Path) -> None:
    tiling = TilingSettings(**open_model_folder(model_dir).tiling)
    found = calibration_tiles(slides, tiling, 20)
    assert found.shape == (20, 64, 64, 3)
    assert np.array_equal(found, calibration_tiles(slides, tiling, 20))
    alone = calibration_tiles(slides[:1], tiling, 1000)
    shared = [any(np.array_equal(tile, other) for other in alone) for tile in found]
    assert 0 < sum(shared) < 20


def test_a_model_in_int8_is_another_model_with_the_same_weights(
    slides: list[Path], model_dir: Path, tmp_path: Path
) -> None:
    quantised = int8_folder(model_dir, tmp_path / "int8", slides, 24)
    before, after = open_model_folder(model_dir), open_model_folder(tmp_path / "int8")
    assert after.digest != before.digest
    assert after.encoder["sha256"] == before.encoder["sha256"]
    assert after.encoder["settings_sha256"] != before.encoder.get("settings_sha256")
    stated = after.encoder["quantisation"]
    assert stated["cosine"] == quantised.likeness.cosine
    assert (stated["precision"], stated["held_out_tiles"]) == ("int8", 6)
    assert load_tile_encoder(after.path).dim == 16
    tiles = {"tiles": np.zeros((2, 64, 64, 3), np.uint8)}
    assert OnnxServer(after.path).infer("tile_encoder", tiles)["features"].shape == (2, 16)

    with pytest.raises(InvalidInputError) as caught:
        OnnxServer(after.path, precision="float16").infer("tile_encoder", tiles)
    assert caught.value.code == "encoder-int8"

    repository = export_to("local", after.path, tmp_path / "repository")
    exported = (repository / "tile_encoder" / "1" / "tile_encoder.onnx").read_bytes()
    assert exported == (after.path / "tile_encoder.onnx").read_bytes()
    for precision in ("float32", "float16"):
        with pytest.raises(InvalidInputError) as caught:
            export_to("onnxruntime", after.path, tmp_path / "other", Choices(precision))  # type: ignore[arg-type]
        assert caught.value.code == "export-int8"
    with pytest.raises(InvalidInputError) as caught:
        int8_folder(after.path, tmp_path / "again", slides, 24)
    assert caught.value.code == "export-int8"
    with pytest.raises(InvalidInputError) as caught:
        int8_folder(model_dir, tmp_path / "int8", slides, 24)
    assert caught.value.code == "export-output"


def test_an_encoder_in_int8_compiles_as_it_is_stored(
    slides: list[Path], model_dir: Path, tmp_path: Path
) -> None:
    """TensorRT takes its graph, and sees the int8 in it."""
    int8_folder(model_dir, tmp_path / "int8", slides, 24)
    graph = folder_tile_graph(open_model_folder(tmp_path / "int8"))
    onnx_file = graph.write(tmp_path / "graph.onnx", "float16")
    assert kinds(onnx_file) == kinds(tmp_path / "int8" / "tile_encoder.onnx")
    built = build_engine(flavour("tensorrt-rtx"), onnx_file, graph.profiles, capabilities=("8.9",))
    assert built.layers.kinds["QUANTIZE"] > 0
    plain = folder_tile_graph(open_model_folder(model_dir)).write(tmp_path / "plain.onnx", "float16")
    assert "QuantizeLinear" not in kinds(plain)
