"""Compiling where the GPU is: engines are tried, measured, and kept only if they are right."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from compiled_model import BATCHES, MOST_TILES, compile_on, compiled_tiny, fake_machine

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.export.engines.compile import CompileSettings, compile_model
from histgen_lib.export.engines.measure import measure_tiles
from histgen_lib.models.engines.gate import load_cases
from histgen_lib.models.engines.record import ENCODER, STEP, TILE_ENCODER, EngineFiles, engines_folder
from histgen_lib.models.engines.serving import load_engine

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


class _Proportional:
    """A clock that advances with the tiles that the engine has encoded."""

    def __init__(self, engine: object) -> None:
        self.tiles, opened = 0, engine._opened._engine
        compute = opened.compute

        def counted(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            self.tiles += len(inputs["tiles"])
            return compute(inputs)

        opened.compute = counted

    def __call__(self) -> float:
        return float(self.tiles)


def test_float16_agrees_within_its_tolerance(own_model_dir: Path) -> None:
    """ONNX Runtime computes float16 graphs as well: the gate is passed by numbers that were really rounded."""
    records = compile_on(fake_machine(), own_model_dir, "float16")
    assert [record.precision for record in records] == ["float16"] * 3
    assert all(record.checked and 0 < record.checked.worst < 1 for record in records)


def test_tensorrt_10_is_asked_for_strong_typing_and_11_needs_not_be(own_model_dir: Path) -> None:
    for version, flags in (("10.6.0", 2), ("11.4.0", 0)):
        machine = fake_machine(version)
        records = compile_on(machine, own_model_dir)
        assert [network.flags for network in machine.trt.networks] == [flags] * 3
        assert {record.version for record in records} == {version}


@pytest.mark.parametrize("content", [b"", b"known.", b"foreign."])
def test_timings_are_kept_and_those_of_another_gpu_are_not_used(
    own_model_dir: Path, tmp_path: Path, content: bytes
) -> None:
    cache = tmp_path / "timing"
    cache.write_bytes(content)
    compile_on(fake_machine(), own_model_dir, timing_cache=cache)
    known = b"" if content.startswith(b"foreign") else content
    assert cache.read_bytes() == known + b"timed." * 3


def test_a_wrong_engine_is_not_kept(own_model_dir: Path) -> None:
    machine = fake_machine(wrong=lambda name, value: value * 2 if name == "features" else value)
    with pytest.raises(FatalError) as caught:
        compile_on(machine, own_model_dir)
    assert caught.value.code == "engine-numbers"
    assert list(engines_folder(own_model_dir, "tensorrt").iterdir()) == []


def test_real_features_are_recorded_beside_drawn_ones(own_model_dir: Path) -> None:
    bag = np.random.default_rng(5).normal(size=(9, 16)).astype(np.float16)
    compile_on(fake_machine(), own_model_dir, features=bag)
    cases = load_cases(files(own_model_dir, ENCODER).recorded)
    assert [len(case.inputs["features"]) for case in cases] == [1, 7, 9]
    assert np.array_equal(cases[-1].inputs["features"], bag)


def test_features_of_another_encoder_are_refused(own_model_dir: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        compile_on(fake_machine(), own_model_dir, features=np.zeros((3, 5), np.float16))
    assert caught.value.code == "bag-shape"


def test_compiling_twice_records_the_same(own_model_dir: Path) -> None:
    one, other = (compile_on(fake_machine(), own_model_dir) for _ in range(2))
    assert [record.recorded for record in one] == [record.recorded for record in other]
    assert [record.onnx for record in one] == [record.onnx for record in other]


def test_a_model_without_an_encoder_of_its_own(own_model_dir: Path) -> None:
    (own_model_dir / "tile_encoder.safetensors").unlink()
    assert [record.name for record in compile_on(fake_machine(), own_model_dir)] == [ENCODER, STEP]


def test_an_engine_that_was_there_is_replaced(tmp_path: Path) -> None:
    model = Path(shutil.copytree(compiled_tiny(), tmp_path / "model"))
    compile_on(fake_machine("10.7.0"), model)
    assert {files(model, name).read().version for name in NAMES} == {"10.7.0"}
    assert files(model, STEP).read().profiles[-1]["tokens"][2] == (8, 3)
    assert files(model, ENCODER).read().profiles[-1]["features"][2] == (MOST_TILES, 16)


def test_tensorrt_needs_a_gpu(own_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_machine().trt)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(FatalError) as caught:
        compile_model(own_model_dir, CompileSettings("tensorrt"), lambda line: None)
    assert caught.value.code == "engine-gpu-missing"
