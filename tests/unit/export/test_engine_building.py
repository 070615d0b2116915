"""TensorRT-RTX really compiles every network here: its builder needs no GPU.

An engine cannot be opened without a GPU. What was compiled is read back from its bytes, in which TensorRT-RTX
keeps the names of tensors and of fused kernels as text.
"""

from __future__ import annotations

import io
import json
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from histgen_lib.cli.app import run
from histgen_lib.errors import FatalError
from histgen_lib.export.engines.build import Built, build_engine
from histgen_lib.export.engines.graphs import EngineGraph, encoder_graph, step_graph, tile_encoder_graph
from histgen_lib.models import SHIPPED_MODEL
from histgen_lib.models.engines.flavours import FLAVOURS, flavour
from histgen_lib.models.engines.gate import load_cases
from histgen_lib.models.engines.record import ENCODER, STEP, TILE_ENCODER, EngineFiles, network_digest
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.histgen import HistGen, HistGenConfig
from histgen_lib.models.serving import Precision
from histgen_lib.models.tile_encoder.registry import new_network

RTX = FLAVOURS["tensorrt-rtx"]
NAMED = re.compile(rb'name="([\w/]+?)(?: \[profile (\d+)\])?\.1"')
KERNEL = re.compile(rb"function={ name=(__myl_\w+)")


def tensors_by_profile(plan: bytes) -> dict[int, set[str]]:
    """Read the names of an engine's tensors, for each of its profiles."""
    found: dict[int, set[str]] = {}
    for name, profile in NAMED.findall(plan):
        found.setdefault(int(profile or 0), set()).add(name.decode())
    return found


def compiled(graph: EngineGraph, precision: Precision, folder: Path) -> Built:
    onnx = graph.write(folder / "graph.onnx", precision)
    return build_engine(RTX, onnx, graph.profiles)


def assert_read_back(built: Built, graph: EngineGraph) -> None:
    """Find kernels in the bytes, and all inputs and outputs once for each profile."""
    names = {one.name for one in (*built.inputs, *built.outputs)}
    assert len(KERNEL.findall(built.plan)) > 1
    assert {profile: names - found for profile, found in tensors_by_profile(built.plan).items()} == {
        profile: set() for profile in range(len(graph.profiles))
    }
    assert [dict(profile) for profile in built.profiles] == [dict(profile) for profile in graph.profiles]
    assert built.layers.source == "graph"
    assert built.layers.kinds["MATRIX_MULTIPLY"] > 0


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the shipped model by the command; return the folder of its engines."""
    out, text = tmp_path_factory.mktemp("engines"), io.StringIO()
    with redirect_stdout(text):
        code = run(["compile", str(SHIPPED_MODEL), "--target", "tensorrt-rtx", "--out", str(out), "--json"])
    assert code == 0
    assert [one["name"] for one in json.loads(text.getvalue())["engines"]] == [TILE_ENCODER, ENCODER, STEP]
    return out


@pytest.mark.parametrize("name", [TILE_ENCODER, ENCODER, STEP])
def test_the_shipped_model_is_compiled_and_recorded(shipped: Path, name: str) -> None:
    files = EngineFiles(shipped, name)
    record, folder = files.read(), open_model_folder(SHIPPED_MODEL)
    found = tensors_by_profile(files.engine.read_bytes())

    assert {one.name for one in (*record.inputs, *record.outputs)} <= set.intersection(*found.values())
    assert len(found) == len(record.profiles)
    assert (record.flavour, record.precision, record.checked) == ("tensorrt-rtx", "float16", None)
    assert record.capabilities == ("8.0", "8.6", "8.9", "12.0", "12.1")
    assert record.model == network_digest(folder, name)
    assert record.layers.count > 10
    for case in load_cases(files.recorded):
        assert {one.name for one in record.inputs} == set(case.inputs)
        assert {one.name for one in record.outputs} == set(case.outputs)


def test_nothing_but_the_engines_is_left_behind(shipped: Path) -> None:
    suffixes = (".engine", ".json", ".safetensors")
    expected = {f"{name}{suffix}" for name in (TILE_ENCODER, ENCODER, STEP) for suffix in suffixes}
    assert {path.name for path in shipped.iterdir()} == expected


def test_sizes_of_the_shipped_model(shipped: Path) -> None:
    tiles, encoder, step = (EngineFiles(shipped, name).read() for name in (TILE_ENCODER, ENCODER, STEP))
    assert tiles.profiles[0]["tiles"] == ((1, 256, 256, 3), (64, 256, 256, 3), (256, 256, 256, 3))
    assert [profile["features"][2] for profile in encoder.profiles] == [(8192, 128), (100_000, 128)]
    assert [profile["tokens"][2] for profile in step.profiles] == [(1, 3), (8, 3)]
    assert step.sizes == {"beams": 3, "max_tokens": 96}
    assert {one.name: one.dtype for one in step.inputs}["past"] == "float16"


@pytest.fixture(scope="module")
def published() -> HistGen:
    """Make the network of the published size, with random weights."""
    torch.manual_seed(0)
    return HistGen(HistGenConfig(mode="published")).eval()


def test_the_published_size_encoder_is_compiled(published: HistGen, tmp_path: Path) -> None:
    graph = encoder_graph(published)
    built = compiled(graph, "float16", tmp_path)
    assert_read_back(built, graph)
    assert {one.name: (one.dtype, one.shape) for one in built.outputs} == {
        "tile_weights": ("float32", (-1, 95)),
        "cross": ("float16", (3, 2, 1, 8, -1, 64)),
    }


def test_the_published_size_step_is_compiled(published: HistGen, tmp_path: Path) -> None:
    graph = step_graph(published, beams=3, max_tokens=100)
    built = compiled(graph, "bfloat16", tmp_path)
    assert_read_back(built, graph)
    shapes = {one.name: (one.dtype, one.shape) for one in built.outputs}
    assert shapes["present"] == ("bfloat16", (3, 2, -1, 3, 8, 100, 64))
    assert shapes["next_tokens"] == ("int64", (-1, 3))
    assert shapes["log_probs"] == ("float32", (-1, 3, 1001))


def test_a_vision_transformer_is_compiled_in_float16(tmp_path: Path) -> None:
    """ViT-S/16 but for its depth: each of its blocks has the same operators."""
    architecture = {"architecture": "timm:vit_small_patch16_224?depth=2"}
    graph = tile_encoder_graph(lambda: new_network(architecture), 256)
    built = compiled(graph, "float16", tmp_path)
    assert_read_back(built, graph)
    assert [(one.dtype, one.shape) for one in built.outputs] == [("float32", (-1, 384))]
    weights = sum(parameter.numel() for parameter in new_network(architecture).parameters())
    assert len(built.plan) < 3 * weights + (4 << 20)  # two bytes each, and what TensorRT adds


class TurnsBytes(nn.Module):
    """Turns pixels before they are numbers, which TensorRT does not do."""

    def forward(self, tiles: Tensor) -> Tensor:
        return tiles.permute(0, 3, 1, 2).float().mean(dim=(2, 3))


def test_an_operator_that_tensorrt_does_not_take_is_named(tmp_path: Path) -> None:
    with pytest.raises(FatalError) as caught:
        compiled(tile_encoder_graph(TurnsBytes, 32), "float32", tmp_path)
    assert caught.value.code == "engine-operator"
    assert "operator Transpose" in caught.value.message
    assert "/Transpose of graph.onnx" in caught.value.message


def test_sizes_that_do_not_fit_the_graph_are_refused(tmp_path: Path) -> None:
    graph = tile_encoder_graph(lambda: new_network({"dim": 8, "widths": [8], "blocks": [1]}), 32)
    onnx = graph.write(tmp_path / "graph.onnx", "float32")
    with pytest.raises(FatalError) as caught:
        build_engine(RTX, onnx, [{"tiles": ((1, 64, 64, 3), (2, 64, 64, 3), (4, 64, 64, 3))}])
    assert caught.value.code == "engine-build"


@pytest.mark.parametrize("asked", [("9.0",), ("8.9", "10.0")])
def test_other_gpus_are_refused_before_anything_is_done(asked: tuple[str, ...]) -> None:
    with pytest.raises(FatalError) as caught:
        RTX.targets(asked)
    assert caught.value.code == "engine-capability"
    assert asked[-1] in caught.value.message
    assert "--target tensorrt" in caught.value.hint


def test_the_other_tensorrt_compiles_for_the_gpu_at_hand_only() -> None:
    with pytest.raises(FatalError) as caught:
        flavour("tensorrt").targets(("9.0",))
    assert caught.value.code == "engine-capability"


def test_a_missing_tensorrt_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RTX.modules:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(FatalError) as caught:
        RTX.load()
    assert caught.value.code == "engine-package"
    assert "tensorrt_rtx_cu13_bindings" in caught.value.hint


def test_an_unknown_flavour_is_refused() -> None:
    with pytest.raises(FatalError) as caught:
        flavour("openvino")
    assert caught.value.code == "engine-flavour"
