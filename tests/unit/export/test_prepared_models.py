"""What `histgen-prepare-models` leaves for a Triton: complete, cached, and nothing half-made.

A GPU in host memory and a TensorRT that builds what runs there stand for the real ones.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from compiled_model import MOST_TILES, compiled_tiny, fake_machine, standing_in

from histgen_lib.cli.prepare import preparation, run
from histgen_lib.errors import FatalError
from histgen_lib.export.engines import compile as compiling
from histgen_lib.export.engines.compile import CompileSettings
from histgen_lib.export.prepared import Preparation, Prepared, prepare
from histgen_lib.models.engines.record import engines_folder
from histgen_lib.models.engines.serving import Machine
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.serving import SERVED


def said(_line: str) -> None:
    """Take what is under way."""


def wanted(models: Path, machine: Machine, **more: Any) -> Preparation:
    chosen = Preparation(
        models,
        "tensorrt",
        source=f"file:{tiny_model.tiny_model()}",
        precision="float32",
        most_tiles=MOST_TILES,
        machine=lambda: machine,
    )
    return replace(chosen, **more)


def prepared(models: Path, machine: Machine, **more: Any) -> Prepared:
    with standing_in(machine):
        return prepare(wanted(models, machine, **more), said)


def in_hand(folder: Path) -> list[str]:
    """List what is left of work; versions of the model and locks stay."""
    kept = re.compile(r"\.lock$|^\.model\.[0-9a-f]{16}$")
    return [path.name for path in folder.glob(".*") if not kept.search(path.name)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[CompileSettings]:
    """Have engines copied that were compiled before; returns what was asked for."""
    asked: list[CompileSettings] = []

    def copy(_model: Path, settings: CompileSettings, _say: Any) -> None:
        assert settings.out is not None
        shutil.copytree(engines_folder(compiled_tiny(), "tensorrt"), settings.out)
        asked.append(settings)

    monkeypatch.setattr(compiling, "compile_model", copy)
    return asked


def test_a_first_start_compiles_and_writes_what_triton_loads(
    tmp_path: Path, quick: list[CompileSettings]
) -> None:
    first, model = prepared(tmp_path, fake_machine()), open_model_folder(tiny_model.tiny_model())
    assert (first.compiled, first.digest) == (True, model.digest)
    assert first.engines is not None
    assert first.engines.name.startswith(f"Host_GPU-10.6.0-{model.digest[:16]}-float32")
    assert (first.repository / "tile_encoder" / "1" / "model.plan").is_file()
    assert len(list((first.repository / "histgen" / "1" / "engines" / "tensorrt").iterdir())) == 6
    assert in_hand(first.repository.parent) == in_hand(first.engines.parent) == []
    [asked] = quick
    assert (asked.flavour, asked.precision, asked.most_tiles) == ("tensorrt", "float32", MOST_TILES)
    assert asked.timing_cache == tmp_path / "engines" / "Host_GPU-10.6.0.timing"


def test_the_next_start_compiles_nothing(tmp_path: Path, quick: list[CompileSettings]) -> None:
    first, again = (prepared(tmp_path, fake_machine()) for _ in range(2))
    assert (again.compiled, again.engines, len(quick)) == (False, first.engines, 1)


def test_another_tensorrt_or_gpu_has_engines_of_its_own(tmp_path: Path, quick: list[CompileSettings]) -> None:
    machines = [fake_machine(), fake_machine("10.9.0"), fake_machine()]
    machines[2].device.name = "Host GPU MIG 1g.10gb"
    found = {prepared(tmp_path, machine).engines for machine in machines}
    assert len(found) == len(quick) == 3
    assert all(folder and folder.is_dir() for folder in found)


def test_engines_that_were_damaged_are_compiled_again(tmp_path: Path, quick: list[CompileSettings]) -> None:
    made = prepared(tmp_path, fake_machine())
    assert made.engines is not None
    (made.engines / "histgen_step.engine").write_bytes(b"half")
    lines: list[str] = []
    with standing_in(fake_machine()) as machine:
        again = prepare(wanted(tmp_path, machine), lines.append)
    assert (again.compiled, again.engines, len(quick)) == (True, made.engines, 2)
    assert any("engine-corrupt" in line for line in lines)
    assert in_hand(made.engines.parent) == []


def test_what_fails_to_compile_leaves_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One engine is made, the next fails."""

    def compile_one(_model: Path, settings: CompileSettings, _say: Any) -> None:
        assert settings.out is not None
        settings.out.mkdir()
        (settings.out / "tile_encoder.engine").write_bytes(b"one of three")
        raise FatalError("engine-build", "TensorRT builds no engine of this.")

    monkeypatch.setattr(compiling, "compile_model", compile_one)
    with pytest.raises(FatalError, match="builds no engine"):
        prepared(tmp_path, fake_machine())
    assert not (tmp_path / "repository").exists()
    assert [path.name for path in (tmp_path / "engines").iterdir() if path.is_dir()] == []


def test_what_a_killed_server_left_is_removed(tmp_path: Path) -> None:
    first = prepared(tmp_path, fake_machine())
    assert first.engines is not None
    left = tmp_path / "engines" / f".{first.engines.name}.abcdefgh" / "engines"
    left.mkdir(parents=True)
    (first.engines / "histgen_step.engine").unlink()
    prepared(tmp_path, fake_machine())
    assert in_hand(tmp_path / "engines") == []


def test_of_servers_that_start_together_one_compiles(tmp_path: Path, quick: list[CompileSettings]) -> None:
    """As pods on one cache: each has a folder of its own, but for the engines."""
    shared, machine = tmp_path / "engines", fake_machine()
    shared.mkdir()

    def pod(number: int) -> Prepared:
        models = tmp_path / f"pod-{number}"
        models.mkdir()
        (models / "engines").symlink_to(shared)
        return prepare(wanted(models, machine), said)

    with standing_in(machine), ThreadPoolExecutor(4) as pool:
        pods = list(pool.map(pod, range(4)))
    assert [one.compiled for one in pods].count(True) == len(quick) == 1
    assert all((one.repository / "tile_encoder" / "1" / "model.plan").is_file() for one in pods)


def test_without_a_gpu_the_command_says_what_is_missing(tmp_path: Path, model_dir: Path, capsys) -> None:
    environment = {
        "MODELS": str(tmp_path),
        "HISTGEN_TARGET": "tensorrt",
        "HISTGEN_MODEL_SOURCE": f"file:{model_dir}",
    }
    code = run(environment)
    assert code == 78
    assert "error[engine-" in capsys.readouterr().err
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"HISTGEN_TARGET": "tensorrt-rtx"}, {"HISTGEN_PRECISION": "int4"}, {"HISTGEN_ENGINE_TILES": "many"}],
)
def test_settings_that_cannot_be_used_are_refused(tmp_path: Path, capsys, wrong: dict[str, str]) -> None:
    assert run({"MODELS": str(tmp_path / "models"), **wrong}) == 78
    assert f"error[settings-invalid]: {next(iter(wrong))}" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_the_environment_reaches_the_preparation() -> None:
    found = preparation(
        {
            "HISTGEN_MODEL_SOURCE": "s3://models/x",
            "HISTGEN_MODEL_DIGEST": "a" * 64,
            "HISTGEN_TARGET": "tensorrt",
            "HISTGEN_PRECISION": "bfloat16",
            "HISTGEN_STORE_ENDPOINT": "http://s3:7070",
            "HISTGEN_STORE_REGION": "eu",
        }
    )
    assert found.models == Path("/models")
    assert (found.source, found.digest, found.target) == ("s3://models/x", "a" * 64, "tensorrt")
    assert (found.precision, found.storage.endpoint, found.storage.region) == (
        "bfloat16",
        "http://s3:7070",
        "eu",
    )


def test_a_server_without_a_gpu_gets_the_shipped_model_by_default_and_loads_no_torch(tmp_path: Path) -> None:
    program = "import sys; from histgen_lib.cli import prepare; code = prepare.run({'MODELS': sys.argv[1]});"
    check = "assert not {'torch', 'tensorrt'} & set(sys.modules); sys.exit(code)"
    ran = subprocess.run(
        [sys.executable, "-c", f"{program} {check}", tmp_path], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert (found["model"], found["engines"]) == ("synthetic-he", None)
    assert {path.name for path in (tmp_path / "repository").iterdir()} == set(SERVED)
