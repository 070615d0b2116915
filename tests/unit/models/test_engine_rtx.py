"""Running engines of TensorRT-RTX: what it compiles for a GPU at the first start is kept for the next."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from compiled_model import compiled_tiny
from fake_gpu import FakeContext, HostDevice, fake_rtx

from histgen_lib.models.engines.flavours import flavour
from histgen_lib.models.engines.record import ENCODER, STEP, engines_folder
from histgen_lib.models.engines.serving import Machine, engine_runner
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.serving import Compute, Runner, served_model

VERSION = "1.7.1.116"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the compiled tiny model, as if TensorRT-RTX had compiled it."""
    folder = Path(shutil.copytree(compiled_tiny(), tmp_path / "model"))
    engines_folder(folder, "tensorrt").rename(engines_folder(folder, "tensorrt-rtx"))
    for path in engines_folder(folder, "tensorrt-rtx").glob("*.json"):
        stated = {"flavour": "tensorrt-rtx", "version": VERSION, "capabilities": ["8.9"], "checked": None}
        path.write_text(json.dumps(json.loads(path.read_bytes()) | stated))
    return folder


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> HostDevice:
    monkeypatch.setattr(FakeContext, "is_stream_capturable", lambda *_: True, raising=False)
    return HostDevice("8.9")


def load(model: Path, device: HostDevice, name: str = "histgen") -> Runner:
    machine = Machine(flavour("tensorrt-rtx"), fake_rtx(device, VERSION), device)
    return engine_runner(open_model_folder(model), name, Compute(device="cuda"), machine=machine)


def cache(model: Path, name: str) -> Path:
    return engines_folder(model, "tensorrt-rtx") / f"{name}.Host-GPU.cache"


def test_its_report_is_that_of_the_cpu(model: Path, device: HostDevice) -> None:
    bag = {
        "features": np.random.default_rng(0).normal(size=(9, 16)).astype(np.float32),
        "xy": np.stack([np.arange(9), np.zeros(9)], axis=1).astype(np.int32) * 64,
    }
    expected = served_model("histgen").runner(open_model_folder(model), Compute(threads=1)).infer(bag)
    assert load(model, device).infer(bag)["tokens"].tolist() == expected["tokens"].tolist()


def test_what_it_compiled_is_kept_by_gpu_and_used_again(model: Path, device: HostDevice) -> None:
    load(model, device)
    assert {path.name for path in engines_folder(model, "tensorrt-rtx").glob("*.cache")} == {
        f"{name}.Host-GPU.cache" for name in (ENCODER, STEP)
    }
    cache(model, STEP).write_bytes(b"known")
    load(model, device)
    assert device.configs[-1].cache.content == b"known"
    assert cache(model, STEP).read_bytes() == b"known"


def test_a_cache_of_another_driver_is_replaced(model: Path, device: HostDevice) -> None:
    cache(model, STEP).write_bytes(b"foreign")
    load(model, device)
    assert cache(model, STEP).read_bytes() == b"compiled"


def test_a_folder_that_cannot_be_written_only_costs_time(
    model: Path, device: HostDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("histgen_lib.models.engines.runtime.write_atomic", refuse)
    load(model, device)
    assert not cache(model, STEP).exists()


def test_kernels_are_compiled_for_sizes_that_come_again_only(model: Path, device: HostDevice) -> None:
    load(model, device)
    strategies = [config.dynamic_shapes_kernel_specialization_strategy for config in device.configs]
    assert strategies == ["none", "eager", "eager"]  # the encoder; the step, in both of its profiles
    assert {config.cuda_graph_strategy for config in device.configs} == {"disabled"}
