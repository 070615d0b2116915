"""Pools of processes end with their owner's work."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from histgen_lib import processes
from histgen_lib.processes import process_pool


def _wait_forever(folder: Path) -> None:
    try:
        (folder / f"{os.getpid()}.running").touch()
        threading.Event().wait()
    finally:
        (folder / "cleaned").touch()


def _interrupted(folder: Path) -> None:
    with process_pool(1) as pool:
        tasks = [pool.submit(_wait_forever, folder) for _ in range(3)]
        while not any(folder.glob("*.running")):
            assert not tasks[0].done(), tasks[0].exception()
        raise KeyboardInterrupt


def test_an_error_of_the_owner_ends_running_tasks_which_clean_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Ctrl-C: a slide may take an hour, for which nobody waits."""
    monkeypatch.setattr(processes, "_CLEANING_S", 5.0)  # for a busy machine
    with pytest.raises(KeyboardInterrupt):
        _interrupted(tmp_path)
    [running] = tmp_path.glob("*.running")
    assert (tmp_path / "cleaned").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(running.stem), 0)


def test_results_come_back_from_processes_that_ignore_interrupts() -> None:
    with process_pool(1) as pool:
        assert pool.submit(len, "four").result() == 4
