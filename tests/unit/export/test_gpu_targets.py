"""Repositories for GPUs: what Triton reads in them, and which engines they refuse to hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from engine_files import write_engines
from fake_triton import read_config
from tritonclient.grpc import model_config_pb2

from histgen_lib.errors import HistgenError
from histgen_lib.export.hosting import Choices
from histgen_lib.export.targets import export_to, target_summaries
from histgen_lib.inference._exchange import read_model
from histgen_lib.models.engines.record import EngineFiles, engines_folder, network_digest
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.graph_record import record_graphs
from histgen_lib.models.histgen.checkpoint import update_config
from histgen_lib.models.serving import OnnxSession

MODELS = ("histgen", "tile_encoder")
GPU, CPU = model_config_pb2.ModelInstanceGroup.KIND_GPU, model_config_pb2.ModelInstanceGroup.KIND_CPU


def configs(repository: Path) -> dict[str, Any]:
    """Read the configurations as Triton does."""
    return {model: read_config(repository / model / "config.pbtxt") for model in MODELS}


def versions(repository: Path, model: str) -> set[str]:
    place = repository / model / "1"
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


def refusal(target: str, model: Path, out: Path, choices: Choices | None = None) -> str:
    with pytest.raises(HistgenError) as caught:
        export_to(target, model, out, choices)
    assert not out.exists(), "nothing is written of a repository that cannot be complete"
    return caught.value.code


@pytest.mark.parametrize("target", target_summaries())
def test_a_client_reads_the_same_model_from_every_target(
    target: str, own_model_dir: Path, tmp_path: Path
) -> None:
    write_engines(own_model_dir, target)
    local = configs(export_to("local", own_model_dir, tmp_path / "local"))
    other = configs(export_to(target, own_model_dir, tmp_path / target))
    for model in MODELS:
        mine, theirs = read_model(local[model]), read_model(other[model])
        assert theirs.batching == mine.batching
        assert theirs.metadata.version == open_model_folder(own_model_dir).digest
        assert theirs.metadata.inputs == mine.metadata.inputs
        assert [one.name for one in theirs.metadata.outputs] == [one.name for one in mine.metadata.outputs]


def test_onnxruntime_runs_the_tile_encoder_without_python(model_dir: Path, tmp_path: Path) -> None:
    found = configs(export_to("onnxruntime", model_dir, tmp_path / "gpu"))
    tile_encoder, histgen = found["tile_encoder"], found["histgen"]
    assert (tile_encoder.backend, tile_encoder.default_model_filename) == ("onnxruntime", "tile_encoder.onnx")
    assert [group.kind for group in tile_encoder.instance_group] == [GPU]
    assert versions(tmp_path / "gpu", "tile_encoder") == {"tile_encoder.onnx"}
    assert (histgen.backend, histgen.instance_group[0].kind) == ("python", GPU)
    assert histgen.parameters["device"].string_value == "cuda"
    assert versions(tmp_path / "gpu", "histgen") == {"model.py", "config.json", "histgen.safetensors"}


def test_onnxruntime_on_a_processor_has_everything_on_the_processor(model_dir: Path, tmp_path: Path) -> None:
    found = configs(export_to("onnxruntime", model_dir, tmp_path / "cpu", Choices(device="cpu")))
    assert [found[model].instance_group[0].kind for model in MODELS] == [CPU, CPU]
    assert "device" not in found["histgen"].parameters
    tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    own = OnnxSession(model_dir / "tile_encoder.onnx").run({"tiles": tiles})["features"]
    exported = OnnxSession(tmp_path / "cpu" / "tile_encoder" / "1" / "tile_encoder.onnx")
    features = exported.run({"tiles": tiles})["features"]
    assert features.dtype == np.float16, "as the configuration states"
    assert np.array_equal(features, own.astype(np.float16))


def test_the_graph_is_traced_anew_for_another_format(model_dir: Path, tmp_path: Path) -> None:
    repository = export_to("onnxruntime", model_dir, tmp_path / "gpu", Choices("float16"))
    graph = onnx.load(repository / "tile_encoder" / "1" / "tile_encoder.onnx").graph
    assert {one.data_type for one in graph.initializer if len(one.dims) > 1} == {onnx.TensorProto.FLOAT16}
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    found = configs(repository)
    assert {found[model].parameters["precision"].string_value for model in MODELS} == {"float16"}


def test_an_encoder_that_is_an_onnx_file_keeps_its_format(own_model_dir: Path, tmp_path: Path) -> None:
    encoder = dict(open_model_folder(own_model_dir).encoder)
    record_graphs(update_config(own_model_dir, encoder=encoder | {"architecture": "onnx"}))
    assert refusal("onnxruntime", own_model_dir, tmp_path / "no", Choices("float16")) == "export-precision"
    assert export_to("onnxruntime", own_model_dir, tmp_path / "gpu") == tmp_path / "gpu"


def test_tensorrt_hosts_the_tile_encoder_as_a_plan_as_it_was_measured_best(
    own_model_dir: Path, tmp_path: Path
) -> None:
    write_engines(own_model_dir, "tensorrt")
    found = configs(export_to("tensorrt", own_model_dir, tmp_path / "gpu"))
    tile_encoder = found["tile_encoder"]
    assert (tile_encoder.backend, tile_encoder.default_model_filename) == ("tensorrt", "model.plan")
    assert (tmp_path / "gpu" / "tile_encoder" / "1" / "model.plan").read_bytes() == b"the engine tile_encoder"
    assert tile_encoder.max_batch_size == 256, "the largest that the engine takes"
    assert list(tile_encoder.dynamic_batching.preferred_batch_size) == [96]
    assert [(group.kind, group.count) for group in tile_encoder.instance_group] == [(GPU, 2)]
    assert tile_encoder.output[0].data_type == model_config_pb2.TYPE_FP32, "as the engine has it"


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_engines_are_driven_by_python_inside_one_execute(
    target: str, own_model_dir: Path, tmp_path: Path
) -> None:
    write_engines(own_model_dir, target)
    found = configs(export_to(target, own_model_dir, tmp_path / "gpu"))
    driven = {"tensorrt": ["histgen"], "tensorrt-rtx": list(MODELS)}[target]
    for model in driven:
        engines = {"histgen": ("histgen_encoder", "histgen_step"), "tile_encoder": ("tile_encoder",)}[model]
        kinds = (".engine", ".json", ".safetensors")
        files = {f"engines/{target}/{engine}{kind}" for engine in engines for kind in kinds}
        assert versions(tmp_path / "gpu", model) == {"model.py", "config.json", *files}
        stated = {key: one.string_value for key, one in found[model].parameters.items()}
        assert (stated["device"], stated["engines"], stated["precision"]) == ("cuda", target, "float16")
        folder = open_model_folder(own_model_dir)
        assert json.loads(stated["networks"]) == {name: network_digest(folder, name) for name in engines}
        assert (found[model].backend, found[model].instance_group[0].kind) == ("python", GPU)
    assert found["histgen"].max_batch_size == 8


def test_engines_that_nobody_measured_get_one_instance(own_model_dir: Path, tmp_path: Path) -> None:
    write_engines(own_model_dir, "tensorrt-rtx", checked=False)
    found = configs(export_to("tensorrt-rtx", own_model_dir, tmp_path / "gpu"))
    assert [found[model].instance_group[0].count for model in MODELS] == [1, 1]
    assert not found["tile_encoder"].dynamic_batching.preferred_batch_size


def test_models_without_engines_are_not_exported_to_them(model_dir: Path, tmp_path: Path) -> None:
    assert refusal("tensorrt", model_dir, tmp_path / "gpu") == "engine-missing"


def test_engines_of_another_format_than_asked_for_are_refused(own_model_dir: Path, tmp_path: Path) -> None:
    write_engines(own_model_dir, "tensorrt", precision="bfloat16")
    assert refusal("tensorrt", own_model_dir, tmp_path / "gpu", Choices("float16")) == "export-precision"


def test_a_plan_that_passed_no_gate_is_refused(own_model_dir: Path, tmp_path: Path) -> None:
    """Triton's own backend would run it unchecked."""
    write_engines(own_model_dir, "tensorrt", checked=False)
    assert refusal("tensorrt", own_model_dir, tmp_path / "gpu") == "export-unchecked"


def test_engines_of_a_model_that_has_changed_are_refused(own_model_dir: Path, tmp_path: Path) -> None:
    write_engines(own_model_dir, "tensorrt")
    encoder = dict(open_model_folder(own_model_dir).encoder)
    update_config(own_model_dir, encoder=encoder | {"dim": 16, "note": "another"})
    assert refusal("tensorrt", own_model_dir, tmp_path / "gpu") == "engine-model"


@pytest.mark.parametrize("part", ["engine", "recorded"])
def test_damaged_engines_are_refused(part: str, own_model_dir: Path, tmp_path: Path) -> None:
    write_engines(own_model_dir, "tensorrt-rtx")
    path: Path = getattr(EngineFiles(engines_folder(own_model_dir, "tensorrt-rtx"), "histgen_step"), part)
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal("tensorrt-rtx", own_model_dir, tmp_path / "gpu") == "engine-corrupt"
