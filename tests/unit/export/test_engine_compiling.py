"""Compiling where the GPU is: engines are tried, measured, and kept only if they are right."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled_model import BATCHES, compile_on, compiled_tiny, fake_machine, standing_in
from fake_gpu import FakeContext, HostDevice

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.export.engines.build import Built, build_engine
from histgen_lib.export.engines.compile import CompileSettings, compile_model
from histgen_lib.export.engines.graphs import tile_encoder_graph
from histgen_lib.export.engines.measure import measure_tiles
from histgen_lib.models.engines.gate import load_cases
from histgen_lib.models.engines.record import (
    ENCODER,
    STEP,
    TILE_ENCODER,
    EngineFiles,
    engines_folder,
    network_digest,
)
from histgen_lib.models.engines.serving import Machine, load_engine
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.graph_record import record_graphs
from histgen_lib.models.tile_encoder.registry import new_network

NAMES = (TILE_ENCODER, ENCODER, STEP)


def files(model: Path, name: str) -> EngineFiles:
    return EngineFiles(engines_folder(model, "tensorrt"), name)


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_is_checked_and_measured_on_its_gpu(name: str) -> None:
    record = files(compiled_tiny(), name).read()
    assert record.checked is not None
    assert (record.checked.device, record.checked.capability) == ("Host GPU", "9.0")
    assert 0 <= record.checked.worst < 1
    assert record.checked.worst_output in {one.name for one in record.outputs}
    assert record.capabilities == ("9.0",)
    assert record.layers.model_dump() == {"source": "engine", "kinds": {"gemm": 2}}


def test_batches_and_instances_come_from_what_was_measured() -> None:
    measured = files(compiled_tiny(), TILE_ENCODER).read().measured
    assert measured is not None
    assert measured.batch in BATCHES
    assert measured.instances in (1, 2, 3)
    assert {rate.batch for rate in measured.rates} == set(BATCHES)
    assert all(rate.tiles_per_s > 0 for rate in measured.rates)


def test_times_of_the_report_model_are_measured() -> None:
    encoder, step = (files(compiled_tiny(), name).read().measured for name in (ENCODER, STEP))
    assert encoder is not None
    assert step is not None
    assert all(size.startswith("N=") for size in encoder.milliseconds)
    assert [size.split(",")[0] for size in step.milliseconds] == ["S=1", "S=8"]
    assert all(value > 0 for value in step.milliseconds.values())


def test_the_smallest_batch_that_is_nearly_as_quick_is_chosen() -> None:
    """A clock that gives every batch the same rate: then there is no reason for a large one."""
    machine, found = fake_machine(), files(compiled_tiny(), TILE_ENCODER)
    engine, _ = load_engine(machine, found, found.read().model)
    measured = measure_tiles(engine, clock=_Proportional(engine), runs=1)
    assert (measured.batch, measured.instances) == (8, 1)


def test_what_is_too_large_for_the_gpu_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, found = fake_machine(), files(compiled_tiny(), TILE_ENCODER)
    engine, _ = load_engine(machine, found, found.read().model)
    assert isinstance(machine.device, HostDevice)
    allocate, most = machine.device.allocate, 20 * 64 * 64 * 3

    def allocate_little(size: int) -> int:
        if size > most:
            raise MemoryError
        return allocate(size)

    monkeypatch.setattr(machine.device, "allocate", allocate_little)
    monkeypatch.setattr(FakeContext, "update_device_memory_size_for_shapes", lambda _: 0)
    assert {rate.batch for rate in measure_tiles(engine, runs=1).rates} == {8, 16}
    assert machine.device.live == {}


class _Proportional:
    """A clock that advances with the tiles that the engine has encoded."""

    def __init__(self, engine: Any) -> None:
        self.tiles, opened = 0, engine._opened._engine
        compute = opened.compute

        def counted(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            self.tiles += len(inputs["tiles"])
            return compute(inputs)

        opened.compute = counted

    def __call__(self) -> float:
        return float(self.tiles)


def test_float16_agrees_within_its_tolerance_on_a_real_slide_too(
    own_model_dir: Path, slide_path: Path
) -> None:
    """ONNX Runtime runs float16 graphs, too: what passes the gate was really rounded."""
    bag = np.random.default_rng(5).normal(size=(9, 16)).astype(np.float16)
    records = compile_on(fake_machine(), own_model_dir, "float16", features=bag, slides=(slide_path,))
    assert [record.precision for record in records] == ["float16"] * 3
    assert all(record.checked and 0 < record.checked.worst < 1 for record in records)
    cases = load_cases(files(own_model_dir, ENCODER).recorded)
    assert [len(case.inputs["features"]) for case in cases] == [1, 7, 9]
    assert np.array_equal(cases[-1].inputs["features"], bag)
    _, real = load_cases(files(own_model_dir, TILE_ENCODER).recorded)
    assert real.inputs["tiles"].shape == (8, 64, 64, 3)


def test_compiling_again_replaces_engines_and_records_the_same(tmp_path: Path) -> None:
    model = Path(shutil.copytree(compiled_tiny(), tmp_path / "model"))
    before = {name: files(model, name).read() for name in NAMES}
    compile_on(fake_machine("11.4.0"), model)
    for name, old in before.items():
        new = files(model, name).read()
        assert (old.version, new.version) == ("10.6.0", "11.4.0")
        assert (old.recorded, old.onnx, old.profiles) == (new.recorded, new.onnx, new.profiles)


@pytest.fixture(scope="module")
def small_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    graph = tile_encoder_graph(lambda: new_network({"dim": 8, "widths": [8], "blocks": [1]}), 32)
    return graph.write(tmp_path_factory.mktemp("graph") / "graph.onnx", "float32")


def build(machine: Machine, graph: Path, timing_cache: Path | None = None) -> Built:
    with standing_in(machine):
        return build_engine(machine.flavour, graph, [], device=machine.device, timing_cache=timing_cache)


@pytest.mark.parametrize(("version", "flags"), [("10.6.0", 1 << 1), ("11.4.0", 0)])
def test_tensorrt_10_is_asked_for_strong_typing(small_graph: Path, version: str, flags: int) -> None:
    """TensorRT 11 has nothing else; a module without the flag takes the same way."""
    machine = fake_machine(version)
    assert build(machine, small_graph).version == version
    assert [network.flags for network in machine.trt.networks] == [flags]


@pytest.mark.parametrize("content", [b"", b"known.", b"foreign.", b"damaged."])
def test_timings_are_kept_and_those_of_another_gpu_are_not_used(
    small_graph: Path, tmp_path: Path, content: bytes
) -> None:
    cache = tmp_path / "timing"
    cache.write_bytes(content)
    build(fake_machine(), small_graph, cache)
    known = b"" if content in (b"foreign.", b"damaged.") else content
    assert cache.read_bytes() == known + b"timed."


def test_a_wrong_engine_is_not_kept(own_model_dir: Path) -> None:
    machine = fake_machine(wrong=lambda name, value: value * 2 if name == "features" else value)
    with pytest.raises(FatalError) as caught:
        compile_on(machine, own_model_dir)
    assert caught.value.code == "engine-numbers"
    assert list(engines_folder(own_model_dir, "tensorrt").iterdir()) == []


def test_features_of_another_encoder_are_refused(own_model_dir: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        compile_on(fake_machine(), own_model_dir, features=np.zeros((3, 5), np.float16))
    assert caught.value.code == "bag-shape"


def test_a_tile_encoder_that_is_a_graph_is_compiled_as_it_is(own_model_dir: Path) -> None:
    """It computes in the formats that it states; another graph in its place is another network."""
    (own_model_dir / "tile_encoder.safetensors").unlink()
    record = compile_on(fake_machine(), own_model_dir, "float16")[0]
    assert (record.name, record.precision) == (TILE_ENCODER, "float32")
    before = network_digest(open_model_folder(own_model_dir), TILE_ENCODER)
    assert record.model == before
    graph = own_model_dir / "tile_encoder.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    record_graphs(open_model_folder(own_model_dir))
    assert network_digest(open_model_folder(own_model_dir), TILE_ENCODER) != before


def test_a_model_without_an_encoder_of_its_own(own_model_dir: Path) -> None:
    (own_model_dir / "tile_encoder.safetensors").unlink()
    (own_model_dir / "tile_encoder.onnx").unlink()
    assert [record.name for record in compile_on(fake_machine(), own_model_dir)] == [ENCODER, STEP]


def test_tensorrt_needs_a_gpu(own_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_machine().trt)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(FatalError) as caught:
        compile_model(own_model_dir, CompileSettings("tensorrt"), lambda line: None)
    assert caught.value.code == "engine-gpu-missing"
