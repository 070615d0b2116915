"""Two processes that train one model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from planted_bags import PlantedWorld

from histgen_lib.models.folder import open_model_folder
from histgen_lib.pipeline import load_model

HERE = Path(__file__).parent
EPOCHS = 12


@pytest.fixture(scope="module")
def out(world: PlantedWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train with torchrun, two gloo processes on this machine; half the batch in each."""
    folder = tmp_path_factory.mktemp("torchrun") / "model"
    folder.mkdir()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(HERE / "planted_run.py"), str(world.annotation.parent), str(folder), str(EPOCHS)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_both_processes_end_with_the_same_weights_from_different_slides(out: Path) -> None:
    """Gradients were therefore averaged at every step."""
    first, second = (torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_learn_the_same_as_one(out: Path) -> None:
    rows = (out / "training" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + EPOCHS
    last = dict(zip(rows[0].split(","), map(float, rows[-1].split(",")), strict=True))
    assert last["val_diagnosis"] == 1.0
    assert last["val_fields"] > 0.8


def test_the_folder_is_written_once_and_completely(out: Path) -> None:
    assert load_model(out).folder.digest == open_model_folder(out).digest
    assert not list(out.rglob("*.part"))


def test_no_thread_of_the_process_group_outlives_training(out: Path) -> None:
    """A thread that does sometimes aborts the process when its interpreter exits."""
    alive = [(out / f"threads{rank}.txt").read_text() for rank in (0, 1)]
    assert not any("gloo" in names for names in alive)
