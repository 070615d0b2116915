"""The tile encoder's graph: weights that do not fit into it lie beside it, and count as the model's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from histgen_lib.export.engines.build import build_engine
from histgen_lib.export.engines.stored import folder_tile_graph
from histgen_lib.export.graph_models import copy_with_outputs
from histgen_lib.export.tile_graph import export_tile_encoder
from histgen_lib.models.engines.flavours import flavour
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.graph_record import record_graphs
from histgen_lib.models.serving import Compute, OnnxSession, Precision, served_model
from histgen_lib.models.tile_encoder import TileEncoder
from histgen_lib.models.tile_encoder.registry import TileNetwork, find_encoder
from histgen_lib.models.tile_encoder.serving import TILE_ENCODER_DATA, TILE_ENCODER_ONNX

PX = 32
FEW = 4096
"""Bytes of weights that a graph may hold here: fewer than the network has."""


TOLERANCES: dict[Precision, float] = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 5e-2}
"""Of the largest feature: 16 bits have 11 and 8 digits in binary."""
VIT = "timm:vit_tiny_patch16_224?img_size=32&side=32&depth=2"


def small() -> TileNetwork:
    torch.manual_seed(4)
    return TileEncoder(12, widths=(8, 16, 24)).eval()


def vit() -> TileNetwork:
    return find_encoder(VIT, seed_fresh=True).network


def typed_answers(graph: Path, tiles: np.ndarray, precision: Precision) -> np.ndarray:
    """ONNX Runtime has no convolution in bfloat16 on a CPU; ONNX's own reference has."""
    if precision == "bfloat16":
        return np.asarray(ReferenceEvaluator(str(graph)).run(None, {"tiles": tiles})[0])
    return answers(graph, tiles)


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("build", [small, vit])
def test_a_typed_graph_agrees_with_torch_in_float32(
    build: Callable[[], TileNetwork], precision: Precision, tiles: np.ndarray, tmp_path: Path
) -> None:
    with torch.inference_mode():
        expected = build()(torch.from_numpy(tiles)).numpy()
    graph = export_tile_encoder(build(), tmp_path / TILE_ENCODER_ONNX, PX, precision)
    found = typed_answers(graph, tiles, precision)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < TOLERANCES[precision] * max(np.abs(expected).max(), 1)
    kinds = {one.data_type for one in onnx.load(graph).graph.initializer if len(one.dims) > 1}
    named = {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}[precision]
    assert {onnx.TensorProto.DataType.Name(kind) for kind in kinds} == {named}


def test_features_leave_a_graph_as_a_server_states_them(tiles: np.ndarray, tmp_path: Path) -> None:
    graph = export_tile_encoder(small(), tmp_path / TILE_ENCODER_ONNX, PX, "bfloat16", "float16")
    assert typed_answers(graph, tiles, "bfloat16").dtype == np.float16


@pytest.fixture(scope="module")
def network() -> TileNetwork:
    return small()


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, PX, PX, 3), dtype=np.uint8)


def answers(graph: Path, tiles: np.ndarray) -> np.ndarray:
    return OnnxSession(graph, threads=1).run({"tiles": tiles})["features"]


def test_weights_beside_the_graph_give_the_same_answers(
    network: TileNetwork, tiles: np.ndarray, tmp_path: Path
) -> None:
    whole = export_tile_encoder(network, tmp_path / "whole" / TILE_ENCODER_ONNX, PX)
    apart = export_tile_encoder(network, tmp_path / "apart" / TILE_ENCODER_ONNX, PX, inline_bytes=FEW)
    assert {path.name for path in whole.parent.iterdir()} == {TILE_ENCODER_ONNX}
    assert {path.name for path in apart.parent.iterdir()} == {TILE_ENCODER_ONNX, TILE_ENCODER_DATA}
    assert apart.stat().st_size < whole.stat().st_size / 2
    assert np.array_equal(answers(whole, tiles), answers(apart, tiles))
    with torch.inference_mode():
        expected = network(torch.from_numpy(tiles)).numpy()
    assert np.abs(answers(apart, tiles) - expected).max() < 1e-4


@pytest.mark.parametrize("many", [True, False])
def test_weights_that_came_in_other_files_are_joined_in_one(
    many: bool, network: TileNetwork, tiles: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond 2 GB torch writes a file for each tensor beside the graph, and the quantiser one for all."""
    whole = export_tile_encoder(network, tmp_path / "whole" / TILE_ENCODER_ONNX, PX)

    def as_torch_does(*args: object, **_: object) -> None:
        onnx.save(
            onnx.load(whole),
            str(args[2]),
            save_as_external_data=True,
            all_tensors_to_one_file=not many,
            location=None if many else "all",
            size_threshold=0,
        )

    monkeypatch.setattr(torch.onnx, "export", as_torch_does)
    apart = export_tile_encoder(network, tmp_path / "apart" / TILE_ENCODER_ONNX, PX)
    assert {path.name for path in apart.parent.iterdir()} == {TILE_ENCODER_ONNX, TILE_ENCODER_DATA}
    assert np.array_equal(answers(whole, tiles), answers(apart, tiles))


def test_a_graph_and_its_weights_are_copied_together(
    network: TileNetwork, tiles: np.ndarray, tmp_path: Path
) -> None:
    apart = export_tile_encoder(network, tmp_path / TILE_ENCODER_ONNX, PX, inline_bytes=FEW)
    copy = tmp_path / "elsewhere" / TILE_ENCODER_ONNX
    copy.parent.mkdir()
    copy_with_outputs(apart, copy, ())
    expected = answers(apart, tiles)
    apart.with_name(TILE_ENCODER_DATA).unlink()
    assert np.array_equal(answers(copy, tiles), expected)


def test_a_graph_is_compiled_with_the_weights_beside_it(
    own_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT's parser finds them by the name in the graph."""
    (own_model_dir / "tile_encoder.safetensors").unlink()
    export_tile_encoder(TileEncoder(16), own_model_dir / TILE_ENCODER_ONNX, 64, inline_bytes=FEW)
    record_graphs(open_model_folder(own_model_dir))
    graph = folder_tile_graph(open_model_folder(own_model_dir))
    written = graph.write(tmp_path / "graph.onnx", "float32")
    monkeypatch.chdir(tmp_path)
    built = build_engine(flavour("tensorrt-rtx"), written, graph.profiles, capabilities=("8.9",))
    assert [one.name for one in built.outputs] == ["features"]


def test_the_models_digest_covers_weights_beside_the_graph(own_model_dir: Path) -> None:
    graph = own_model_dir / TILE_ENCODER_ONNX
    export_tile_encoder(TileEncoder(16), graph, 64, inline_bytes=FEW)
    digest = open_model_folder(own_model_dir).digest
    data = own_model_dir / TILE_ENCODER_DATA
    held = bytearray(data.read_bytes())
    held[len(held) // 2] ^= 1
    data.write_bytes(held)
    assert open_model_folder(own_model_dir).digest != digest
    record_graphs(open_model_folder(own_model_dir))
    folder = open_model_folder(own_model_dir)
    tiles = np.zeros((1, 64, 64, 3), np.uint8)
    served = served_model("tile_encoder").runner(folder, Compute(threads=1))
    assert served.infer({"tiles": tiles})["features"].shape == (1, 16)


def test_a_smaller_network_leaves_no_weights_of_the_larger_behind(tmp_path: Path) -> None:
    export_tile_encoder(TileEncoder(12), tmp_path / TILE_ENCODER_ONNX, PX, inline_bytes=FEW)
    export_tile_encoder(TileEncoder(12), tmp_path / TILE_ENCODER_ONNX, PX)
    assert {path.name for path in tmp_path.iterdir()} == {TILE_ENCODER_ONNX}
