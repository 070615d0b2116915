"""A run's state: complete or absent, and resumed only by the same run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.training.checkpoint import RunState, load_state, save_state

PRINT = {"seed": 1, "sizes": {"d_model": 4}, "slides": [("a", 3)]}


def _save(path: Path) -> RunState:
    run = RunState(2, 5, {"val_loss": 0.5}, {"w": torch.ones(2)}, 1, [{"epoch": 1.0}], 3.5, 60.0)
    save_state(path, run, {"model": {"w": torch.arange(3.0)}}, PRINT)
    return run


def test_a_state_is_read_back_unchanged(tmp_path: Path) -> None:
    saved = _save(tmp_path / "state.pt")
    run, parts = load_state(tmp_path / "state.pt", PRINT)
    assert torch.equal(run.best_weights.pop("w"), saved.best_weights.pop("w"))
    assert run == saved
    assert torch.equal(parts["model"]["w"], torch.arange(3.0))


@pytest.mark.parametrize("changed", [{"seed": 2}, {"slides": [("a", 4)]}, {"new": 0}])
def test_the_state_of_another_run_is_refused_naming_the_difference(tmp_path: Path, changed: dict) -> None:
    _save(tmp_path / "state.pt")
    with pytest.raises(InvalidInputError, match=next(iter(changed))) as raised:
        load_state(tmp_path / "state.pt", PRINT | changed)
    assert raised.value.code == "training-state-differs"


@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_damaged_state_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "state.pt"
    _save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(FatalError) as raised:
        load_state(path, PRINT)
    assert raised.value.code == "training-state-unreadable"
