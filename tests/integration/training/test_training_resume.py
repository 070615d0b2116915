"""A run stopped anywhere, in any way, ends with the bytes of an uninterrupted one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from planted_bags import PlantedWorld

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.files import sha256_file
from histgen_lib.models.folder import open_model_folder
from histgen_lib.training import train
from histgen_lib.training.checkpoint import RunState
from histgen_lib.training.report.train import TrainResult

HERE = Path(__file__).parent
EPOCHS = 3


class StopError(Exception):
    """Stands for Ctrl-C."""


@pytest.fixture(scope="module")
def uninterrupted(small_world: PlantedWorld, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    out = tmp_path_factory.mktemp("whole") / "model"
    return train(small_world.settings(out, epochs=EPOCHS), quiet=True)


def _assert_same(resumed: TrainResult, whole: TrainResult) -> None:
    assert open_model_folder(resumed.folder).digest == open_model_folder(whole.folder).digest
    times = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in times} for row in resumed.rows] == [
        {k: v for k, v in row.items() if k not in times} for row in whole.rows
    ]


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_run_stopped_after_any_step_ends_as_an_uninterrupted_one(
    small_world: PlantedWorld, uninterrupted: TrainResult, tmp_path: Path, steps: int
) -> None:
    """With two steps per epoch: after the first, inside the second epoch, and between epochs."""
    left = iter(range(steps))

    def stop(run: RunState) -> None:
        if next(left, None) is None:
            raise StopError

    settings = small_world.settings(tmp_path / "model", epochs=EPOCHS, save_every_s=0.0)
    with pytest.raises(StopError):
        train(settings, quiet=True, after_step=stop)
    assert not (tmp_path / "model" / "histgen.safetensors").exists()
    _assert_same(train(settings, quiet=True), uninterrupted)


def test_a_process_killed_while_writing_its_state_loses_only_one_step(
    small_world: PlantedWorld, uninterrupted: TrainResult, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    killed = _run(small_world, out, EPOCHS, 4)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (out / "training" / "state.pt").exists()
    assert not (out / "config.json").exists()
    settings = small_world.settings(out, epochs=EPOCHS, save_every_s=0.0)
    _assert_same(train(settings, quiet=True), uninterrupted)
    table = (out / "training" / "metrics.csv").read_text().splitlines()
    assert len(table) == 1 + EPOCHS


def test_a_folder_with_another_run_is_left_untouched(
    small_world: PlantedWorld, uninterrupted: TrainResult
) -> None:
    before = sha256_file(uninterrupted.folder / "training" / "state.pt")
    with pytest.raises(InvalidInputError, match="learning_rate") as raised:
        train(small_world.settings(uninterrupted.folder, epochs=EPOCHS, learning_rate=1e-3), quiet=True)
    assert raised.value.code == "training-state-differs"
    assert sha256_file(uninterrupted.folder / "training" / "state.pt") == before


def test_a_damaged_state_is_reported_and_not_overwritten(small_world: PlantedWorld, tmp_path: Path) -> None:
    path = tmp_path / "model" / "training" / "state.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a state")
    with pytest.raises(FatalError) as raised:
        train(small_world.settings(tmp_path / "model"), quiet=True)
    assert raised.value.code == "training-state-unreadable"
    assert path.read_bytes() == b"half a state"


def _run(world: PlantedWorld, out: Path, *numbers: int) -> subprocess.CompletedProcess[str]:
    script, folder = str(HERE / "planted_run.py"), str(world.annotation.parent)
    command = [sys.executable, script, folder, str(out), *map(str, numbers)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
