"""Engines answer what ONNX Runtime answers: the same loops, copies and searches, on a GPU in host memory."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from compiled_model import MOST_TILES, compiled_tiny, fake_machine
from fake_gpu import FakeContext, HostDevice, HostMemory

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.models.engines import serving as engine_serving
from histgen_lib.models.engines.record import (
    STEP,
    TILE_ENCODER,
    BatchRate,
    EngineFiles,
    Measured,
    engines_folder,
)
from histgen_lib.models.engines.runtime import Messages
from histgen_lib.models.engines.serving import EngineTiles, Machine, engine_runner, load_engine
from histgen_lib.models.engines.session import Lane
from histgen_lib.models.engines.steps import StepLoop
from histgen_lib.models.folder import ModelFolder, open_model_folder
from histgen_lib.models.histgen.batches import BatchedRunner
from histgen_lib.models.serving import Compute, Runner, served_model

ON_GPU = Compute(device="cuda")
SPAN_PX = 64


@pytest.fixture(scope="module")
def folder() -> ModelFolder:
    return open_model_folder(compiled_tiny())


@pytest.fixture(scope="module")
def on_cpu(folder: ModelFolder) -> Runner:
    return served_model("histgen").runner(folder, Compute(threads=1))


@pytest.fixture
def machine() -> Machine:
    return fake_machine()


@pytest.fixture
def on_engines(folder: ModelFolder, machine: Machine) -> BatchedRunner:
    return engine_runner(folder, "histgen", ON_GPU, machine=machine)


def request(tiles: int, **settings: object) -> dict[str, np.ndarray]:
    features = np.random.default_rng(tiles).normal(size=(tiles, 16)).astype(np.float32)
    xy = np.stack([np.arange(tiles) % 10, np.arange(tiles) // 10], axis=1).astype(np.int32) * SPAN_PX
    return {"features": features, "xy": xy} | {name: np.array([value]) for name, value in settings.items()}


def memory_of(machine: Machine) -> dict[int, HostMemory]:
    assert isinstance(machine.device, HostDevice)
    return machine.device.live


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found["tokens"].tolist() == expected["tokens"].tolist()
    for name in ("logprobs", "evidence", "score"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("tiles", [1, 4, 5, 70])
def test_a_report_is_that_of_the_cpu(on_engines: Runner, on_cpu: Runner, tiles: int) -> None:
    assert_same(on_engines.infer(request(tiles)), on_cpu.infer(request(tiles)))


@pytest.mark.parametrize(
    "settings",
    [
        {"beam_size": 2},
        {"beam_size": 1},
        {"method": "greedy"},
        {"method": "sample", "seed": 3},
        {"max_tokens": 1},
    ],
)
def test_other_ways_to_choose_words_are_those_of_the_cpu(
    on_engines: Runner, on_cpu: Runner, settings: dict[str, object]
) -> None:
    assert_same(on_engines.infer(request(23, **settings)), on_cpu.infer(request(23, **settings)))


def test_a_case_of_several_slides_is_that_of_the_cpu(on_engines: Runner, on_cpu: Runner) -> None:
    case = request(30) | {"slide": np.repeat([0, 1, 2], [7, 2, 21]).astype(np.int32)}
    assert_same(on_engines.infer(case), on_cpu.infer(case))


@pytest.mark.parametrize("settings", [{}, {"method": "greedy"}])
def test_slides_that_are_searched_together_do_not_change_each_other(
    on_engines: BatchedRunner, on_cpu: Runner, settings: dict[str, object]
) -> None:
    """Ten slides are two batches, as a step takes eight; their numbers of regions differ."""
    requests = [request(tiles, **settings) for tiles in (3, 90, 1, 17, 40, 5, 8, 2, 60, 31)]
    for found, asked in zip(on_engines.infer_many(requests), requests, strict=True):
        assert_same(found, on_cpu.infer(asked))


@pytest.mark.parametrize("served", ["histgen", "tile_encoder"])
def test_the_gate_leaves_no_memory_behind(folder: ModelFolder, machine: Machine, served: str) -> None:
    engine_runner(folder, served, ON_GPU, machine=machine)
    assert memory_of(machine) == {}


def test_one_slide_after_the_other_takes_no_more_memory(on_engines: Runner, machine: Machine) -> None:
    on_engines.infer(request(60))
    held = dict(memory_of(machine))
    for tiles in (50, 1, 60):
        on_engines.infer(request(tiles))
    assert memory_of(machine) == held


def test_what_could_not_be_prepared_leaves_no_memory_behind(
    on_engines: Runner, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(machine.device, "capture", refuse)
    with pytest.raises(MemoryError):
        on_engines.infer(request(9))
    assert memory_of(machine) == {}


def test_loops_of_other_sizes_give_way_when_memory_is_short(
    on_engines: Runner, on_cpu: Runner, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_engines.infer(request(1))
    before = set(memory_of(machine))
    allocate, refusals = machine.device.allocate, iter([True])

    def refuse_once(size: int) -> int:
        if next(refusals, False):
            raise MemoryError
        return allocate(size)

    monkeypatch.setattr(machine.device, "allocate", refuse_once)
    assert_same(on_engines.infer(request(90)), on_cpu.infer(request(90)))
    assert not before <= set(memory_of(machine))


def test_they_give_way_to_the_encoder_too(
    on_engines: Runner, on_cpu: Runner, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_engines.infer(request(90))
    refusals = iter([True])

    def refuse_once(self: Lane, shapes: dict[str, tuple[int, ...]]) -> object:
        if next(refusals, False):
            raise MemoryError
        return prepare(self, shapes)

    prepare, before = Lane.prepare, set(memory_of(machine))
    monkeypatch.setattr(Lane, "prepare", refuse_once)
    assert_same(on_engines.infer(request(90)), on_cpu.infer(request(90)))
    assert not before <= set(memory_of(machine))


def test_steps_are_recorded_once_for_each_of_the_sizes_in_use(
    on_engines: BatchedRunner, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [[request(9, max_tokens=1)] * count for count in range(1, 8)]
    for batch in batches:
        on_engines.infer_many(batch)
    monkeypatch.setattr(machine.device, "capture", lambda *_: pytest.fail("recorded again"))
    for batch in batches:
        on_engines.infer_many(batch)


def test_a_loop_goes_as_soon_as_nobody_needs_it(folder: ModelFolder, machine: Machine) -> None:
    """Python's collector would free what CUDA holds at any time: even while another loop is recorded."""
    files = EngineFiles(engines_folder(folder.path, "tensorrt"), STEP)
    loop = StepLoop(load_engine(machine, files, files.read().model)[0], 1, 16)
    watched = weakref.ref(loop)
    gc.disable()
    try:
        loop.close()
        del loop
        assert watched() is None
    finally:
        gc.enable()


def test_what_cannot_be_recorded_runs_all_the_same(
    on_engines: Runner, on_cpu: Runner, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX says whether a CUDA graph can record an engine."""
    monkeypatch.setattr(FakeContext, "is_stream_capturable", lambda *_: False, raising=False)
    monkeypatch.setattr(machine.device, "capture", lambda *_: pytest.fail("recorded"))
    assert_same(on_engines.infer(request(9)), on_cpu.infer(request(9)))


def test_a_recording_that_fails_leaves_steps_that_run(
    on_engines: Runner,
    on_cpu: Runner,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise FatalError("engine-cuda", "cudaStreamEndCapture returned cudaErrorStreamCaptureInvalidated.")

    monkeypatch.setattr(machine.device, "capture", fail)
    assert_same(on_engines.infer(request(9)), on_cpu.infer(request(9)))
    assert "cudaErrorStreamCaptureInvalidated" in caplog.text


def test_a_slide_beyond_what_was_compiled_is_refused(on_engines: Runner) -> None:
    with pytest.raises(InvalidInputError) as caught:
        on_engines.infer(request(MOST_TILES + 200))
    assert caught.value.code == "engine-size"
    assert f"at most {MOST_TILES} tiles" in caught.value.message


@pytest.mark.parametrize("settings", [{"beam_size": 4}, {"max_tokens": 25}])
def test_a_wider_or_longer_search_is_refused(on_engines: Runner, settings: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        on_engines.infer(request(5, **settings))
    assert caught.value.code == "decoding-settings"
    assert "3 beams and 24 words" in caught.value.message


def test_engines_run_on_no_cpu(folder: ModelFolder, machine: Machine) -> None:
    with pytest.raises(FatalError) as caught:
        engine_runner(folder, "histgen", Compute(), machine=machine)
    assert caught.value.code == "engine-device"


@pytest.mark.parametrize("tiles", [1, 9, 50])
def test_features_are_those_of_the_cpu(folder: ModelFolder, machine: Machine, tiles: int) -> None:
    pixels = np.random.default_rng(tiles).integers(0, 256, (tiles, 64, 64, 3), dtype=np.uint8)
    found = engine_runner(folder, "tile_encoder", ON_GPU, machine=machine).infer({"tiles": pixels})[
        "features"
    ]
    expected = (
        served_model("tile_encoder").runner(folder, Compute(threads=1)).infer({"tiles": pixels})["features"]
    )
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_tiles_are_encoded_in_batches_of_few_sizes(
    folder: ModelFolder, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = EngineFiles(engines_folder(folder.path, "tensorrt"), TILE_ENCODER)
    engine, _ = load_engine(machine, files, files.read().model)
    measured = Measured(batch=16, instances=2, rates=(BatchRate(batch=16, instances=2, tiles_per_s=1.0),))
    engine.record = engine.record.model_copy(update={"measured": measured})
    runner, sizes = EngineTiles(engine), []
    run = runner._session.run
    monkeypatch.setattr(runner._session, "run", lambda given: sizes.append(len(given["tiles"])) or run(given))

    found = runner.infer({"tiles": np.zeros((35, 64, 64, 3), np.uint8)})["features"]

    assert len(found) == 35
    assert sorted(sizes) == [8, 16, 16]


def test_no_tiles_are_refused(folder: ModelFolder, machine: Machine) -> None:
    with pytest.raises(InvalidInputError) as caught:
        engine_runner(folder, "tile_encoder", ON_GPU, machine=machine).infer(
            {"tiles": np.zeros((0, 64, 64, 3), np.uint8)}
        )
    assert caught.value.code == "tensor-shape"


def test_the_flavour_that_can_be_loaded_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "engines" / "tensorrt").mkdir(parents=True)
    (tmp_path / "engines" / "tensorrt-rtx").mkdir()
    for name in ("tensorrt", "tensorrt_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    assert engine_serving.compiled_flavour(tmp_path) == "tensorrt-rtx"


def test_what_an_earlier_report_left_does_not_matter(
    on_engines: Runner, on_cpu: Runner, machine: Machine
) -> None:
    on_engines.infer(request(9))
    for memory in memory_of(machine).values():
        memory.array[:] = 0xFF  # as numbers with a point: none
    assert_same(on_engines.infer(request(9)), on_cpu.infer(request(9)))


def test_a_slide_of_which_the_encoder_computes_no_numbers_is_refused(
    folder: ModelFolder, on_cpu: Runner
) -> None:
    """In float16 sums may grow too large; slides that are searched with it are answered."""
    spoilt = [False]

    def wrong(name: str, value: np.ndarray) -> np.ndarray:
        return np.full_like(value, np.nan) if spoilt[0] and name == "tile_weights" else value

    runner = engine_runner(folder, "histgen", ON_GPU, machine=fake_machine(wrong=wrong))
    spoilt[0] = True
    with pytest.raises(InvalidInputError) as caught:
        runner.infer(request(9))
    assert caught.value.code == "bag-not-finite"
    spoilt[0] = False
    assert_same(runner.infer(request(9)), on_cpu.infer(request(9)))


@pytest.mark.parametrize("call", ["execute_async_v3", "update_device_memory_size_for_shapes"])
def test_what_tensorrt_says_of_a_failed_run_is_passed_on(
    on_engines: Runner, machine: Machine, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object) -> int:
        Messages(machine.trt).logger.log(machine.trt.ILogger.ERROR, "Cask launch failed")
        return 0

    monkeypatch.setattr(FakeContext, call, refuse)
    with pytest.raises(FatalError) as caught:
        on_engines.infer(request(9))
    assert caught.value.code == "engine-run"
    assert "Cask launch failed" in caught.value.message
