"""Engines that are damaged, wrong, of or for something else are refused, each with its code."""

from __future__ import annotations

import ctypes
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from compiled_model import compiled_tiny, fake_machine
from fake_gpu import FakeContext, FakeEngine, Wrong

from histgen_lib.errors import FatalError
from histgen_lib.files import sha256_file
from histgen_lib.models.engines.gate import Case, load_cases, save_cases
from histgen_lib.models.engines.record import ENCODER, STEP, TILE_ENCODER, EngineFiles, engines_folder
from histgen_lib.models.engines.serving import Machine, compiled_flavour, engine_runner
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.serving import Compute


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a compiled model that the test may change."""
    return Path(shutil.copytree(compiled_tiny(), tmp_path / "model"))


def files_of(model: Path, name: str = ENCODER) -> EngineFiles:
    return EngineFiles(engines_folder(model, "tensorrt"), name)


def load(model: Path, machine: Machine | None = None, name: str = "histgen") -> None:
    machine = machine or fake_machine()
    engine_runner(open_model_folder(model), name, Compute(device="cuda"), machine=machine)


def refusal(model: Path, machine: Machine | None = None, name: str = "histgen") -> FatalError:
    with pytest.raises(FatalError) as caught:
        load(model, machine, name)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def restate(files: EngineFiles, **values: object) -> None:
    record = json.loads(files.record.read_bytes())
    files.record.write_text(json.dumps(record | values))


@pytest.mark.parametrize("suffix", ["engine", "json", "safetensors"])
def test_a_file_that_is_missing(model: Path, suffix: str) -> None:
    files_of(model).engine.with_suffix(f".{suffix}").unlink()
    error = refusal(model)
    assert error.code == "engine-missing"
    assert f"histgen_encoder.{suffix}" in error.message


def test_a_model_without_engines(model: Path) -> None:
    shutil.rmtree(model / "engines")
    with pytest.raises(FatalError) as caught:
        compiled_flavour(model)
    assert caught.value.code == "engine-missing"
    assert "histgen compile" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{}", b'{"name": "x"}', b"[1]", b"\xff"])
def test_a_record_that_is_none(model: Path, content: bytes) -> None:
    files_of(model).record.write_bytes(content)
    assert refusal(model).code == "engine-record"


def test_a_record_of_a_later_histgen(model: Path) -> None:
    restate(files_of(model), schema_version=2)
    assert refusal(model).code == "engine-record"


def test_a_record_of_the_models_other_network(model: Path) -> None:
    """Both are made of the same weights, so their digests are equal."""
    for suffix in ("json", "engine", "safetensors"):
        one, other = (files_of(model, name).folder / f"{name}.{suffix}" for name in (ENCODER, STEP))
        kept = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(kept)
    error = refusal(model)
    assert error.code == "engine-record"
    assert STEP in error.message


def test_another_version_of_tensorrt(model: Path) -> None:
    error = refusal(model, fake_machine(version="11.2.0"))
    assert error.code == "engine-version"
    assert "10.6.0" in error.message
    assert "11.2.0" in error.message


def test_another_gpu(model: Path) -> None:
    error = refusal(model, fake_machine(capability="8.0"))
    assert error.code == "engine-hardware"
    assert "9.0" in error.message
    assert "8.0" in error.message


def test_an_engine_for_rtx_on_an_h100_points_to_the_other_tensorrt(model: Path) -> None:
    restate(files_of(model), flavour="tensorrt-rtx", capabilities=["8.9", "12.0"])
    error = refusal(model)
    assert error.code == "engine-hardware"
    assert "--target tensorrt`" in error.hint


@pytest.mark.parametrize("name", [ENCODER, TILE_ENCODER])
def test_an_engine_of_other_weights(model: Path, name: str) -> None:
    served, weights = ("histgen", "histgen") if name == ENCODER else ("tile_encoder", "tile_encoder")
    change(model / f"{weights}.safetensors")
    assert refusal(model, name=served).code == "engine-model"


def test_an_engine_of_another_network(model: Path) -> None:
    config = json.loads((model / "config.json").read_bytes())
    config["histgen"]["topk"] = 3
    (model / "config.json").write_text(json.dumps(config))
    assert refusal(model).code == "engine-model"


def test_new_thresholds_need_no_new_engine(model: Path) -> None:
    config = json.loads((model / "config.json").read_bytes())
    config["abstention"]["threshold"] = 0.9
    (model / "config.json").write_text(json.dumps(config))
    load(model)


@pytest.mark.parametrize("part", ["engine", "recorded"])
def test_a_damaged_file_is_refused_before_tensorrt_sees_it(
    model: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = fake_machine()
    monkeypatch.setattr(machine.trt, "Runtime", lambda *_: pytest.fail("TensorRT saw it"))
    change(getattr(files_of(model), part))
    error = refusal(model, machine)
    assert error.code == "engine-corrupt"
    assert getattr(files_of(model), part).name in error.message


def test_an_engine_that_tensorrt_refuses(model: Path) -> None:
    files = files_of(model)
    files.engine.write_bytes(b"not an engine")
    restate(files, engine=sha256_file(files.engine))
    error = refusal(model)
    assert error.code == "engine-refused"
    assert "magic tag" in error.message


def test_a_record_by_which_memory_would_be_too_small(model: Path) -> None:
    files = files_of(model)
    outputs = json.loads(files.record.read_bytes())["outputs"]
    restate(files, outputs=[one | {"dtype": "float16"} if one["name"] == "cross" else one for one in outputs])
    error = refusal(model)
    assert error.code == "engine-record"
    assert "cross" in error.message


def test_tensors_that_are_not_on_the_gpu(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT may want numbers that decide sizes in host memory."""
    monkeypatch.setattr(FakeEngine, "get_tensor_location", lambda _, name: name == "place" or "device")
    error = refusal(model)
    assert error.code == "engine-record"
    assert "place" in error.message


def test_recorded_inputs_that_are_none(model: Path) -> None:
    files = files_of(model)
    files.recorded.write_bytes(b"\x08\0\0\0\0\0\0\0{       ")
    restate(files, recorded=sha256_file(files.recorded))
    assert refusal(model).code == "engine-recorded"


def record_again(model: Path, change: Callable[[list[Case]], list[Case]]) -> None:
    files = files_of(model)
    save_cases(change(load_cases(files.recorded)), files.recorded)
    restate(files, recorded=sha256_file(files.recorded))


@pytest.mark.parametrize(
    "change",
    [
        lambda cases: [],
        lambda cases: [case._replace(outputs={}) for case in cases],
        lambda cases: [case._replace(outputs={"cross": case.outputs["cross"]}) for case in cases],
        lambda cases: [case._replace(inputs={"features": case.inputs["features"]}) for case in cases],
        lambda cases: [
            case._replace(inputs=case.inputs | {"features": case.inputs["features"][:, 1:]}) for case in cases
        ],
    ],
    ids=["no runs", "no outputs", "an output less", "inputs less", "inputs that the engine does not take"],
)
def test_recorded_runs_that_leave_something_unchecked(
    model: Path, change: Callable[[list[Case]], list[Case]]
) -> None:
    record_again(model, change)
    assert refusal(model).code == "engine-recorded"


def test_runs_that_are_recorded_again_as_they_were(model: Path) -> None:
    record_again(model, list)
    load(model)


def scaled(output: str, factor: float) -> Wrong:
    return lambda name, value: (value * factor).astype(value.dtype) if name == output else value


def broken(output: str, spoil: Callable[[np.ndarray], None]) -> Wrong:
    def wrong(name: str, value: np.ndarray) -> np.ndarray:
        if name == output:
            value = value.copy()
            spoil(value.reshape(-1))
        return value

    return wrong


@pytest.mark.parametrize(
    ("served", "engine", "output", "wrong"),
    [
        ("tile_encoder", TILE_ENCODER, "features", scaled("features", 1.02)),
        ("tile_encoder", TILE_ENCODER, "features", broken("features", lambda v: v.__setitem__(0, np.nan))),
        ("histgen", ENCODER, "cross", scaled("cross", 0.9)),
        ("histgen", ENCODER, "tile_weights", scaled("tile_weights", 1.01)),
        ("histgen", STEP, "log_probs", scaled("log_probs", 1.01)),
        ("histgen", STEP, "present", broken("present", lambda v: v.__setitem__(slice(4), 0.5))),
        ("histgen", STEP, "next_scores", broken("next_scores", lambda v: v.__setitem__(-1, -np.inf))),
        ("histgen", STEP, "next_tokens", scaled("next_tokens", 2)),
        ("histgen", STEP, "next_place", scaled("next_place", 0)),
    ],
)
def test_an_engine_that_is_silently_wrong(
    model: Path, served: str, engine: str, output: str, wrong: Wrong
) -> None:
    error = refusal(model, fake_machine(wrong=wrong), served)
    assert error.code == "engine-numbers"
    assert f"The engine {engine} computes wrong numbers: its output {output!r}" in error.message


def test_each_profile_has_to_pass(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small runs that are recorded would only ever meet the profile of small slides."""
    files = files_of(model)
    [small] = json.loads(files.record.read_bytes())["profiles"]
    restate(files, profiles=[small, small])
    run = FakeContext._run

    def spoilt(self: FakeContext, addresses: dict[str, int]) -> None:
        run(self, addresses)
        if self.profile == 1 and "cross" in addresses:
            ctypes.memset(addresses["cross"], 0, 4)

    load(model)
    monkeypatch.setattr(FakeContext, "_run", spoilt)
    assert refusal(model).code == "engine-numbers"
