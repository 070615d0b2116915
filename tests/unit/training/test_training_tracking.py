"""What a run shows: metrics.csv, TensorBoard files, and the time left."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from histgen_lib.training.tracking import MetricsLog, TrainProgress


def test_rows_of_different_epochs_share_one_table(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, [])
    log.write({"epoch": 1.0, "train_loss": 2.0})
    log.write({"epoch": 2.0, "train_loss": 1.0, "val_fields": 0.5})
    log.close()
    assert (tmp_path / "metrics.csv").read_text() == "epoch,train_loss,val_fields\n1.0,2.0,\n2.0,1.0,0.5\n"
    assert [path for path in (tmp_path / "tensorboard").iterdir() if "tfevents" in path.name]


def test_a_resumed_run_writes_its_earlier_rows(tmp_path: Path) -> None:
    MetricsLog(tmp_path, [{"epoch": 1.0}]).close()
    assert (tmp_path / "metrics.csv").read_text() == "epoch\n1.0\n"


def test_time_left_comes_from_the_steps_of_this_process() -> None:
    """A resumed run must not count the earlier process's steps as done in no time."""
    now = iter([0.0, 10.0, 10.0, 10.0, 10.0]).__next__
    silent = Console(file=io.StringIO())
    progress = TrainProgress("train", 110, done=50, console=silent, clock=now)
    assert progress.time_left() == "?"
    progress.advance(10)
    assert progress.time_left() == "0:50"


def test_without_a_terminal_progress_is_a_line() -> None:
    screen = io.StringIO()
    now = iter([0.0, 30.0, 30.0, 30.0]).__next__
    with TrainProgress("train", 60, console=Console(file=screen, width=200), clock=now) as progress:
        progress.advance(30, "loss 0.1")
    assert screen.getvalue() == "train: 30/60 loss 0.1, 0:30 left\n"


def test_slide_names_cannot_control_the_terminal_in_a_slow_run():
    """A line every 20 s names the last slide; on a fast machine nobody sees one."""
    screen = io.StringIO()
    now = iter([0.0, 30.0, 30.0, 30.0, 30.0]).__next__
    with TrainProgress("encode", 2, console=Console(file=screen, width=200), clock=now) as progress:
        progress.advance(1, "a\x1b[31m\nb.tif")
    assert "\x1b[31m" not in screen.getvalue()
    assert "a\\x1b[31m\\nb.tif" in screen.getvalue()
