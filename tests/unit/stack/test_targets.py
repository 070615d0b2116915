"""Prometheus is told of processes that live, and of no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx

from histgen_lib.stack.monitoring import clear_targets, list_target, serve_metrics


def listed(run_dir: Path) -> set[str]:
    return {path.name for path in (run_dir / "targets").iterdir()}


def test_what_a_killed_process_left_is_cleared_and_what_lives_or_is_not_ours_stays(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    list_target(tmp_path, "tiler", dead.pid, "127.0.0.1:1")
    list_target(tmp_path, "gateway", os.getpid(), "127.0.0.1:2")
    (tmp_path / "targets" / "node-exporter.json").write_text("[]")
    clear_targets(tmp_path)

    assert listed(tmp_path) == {f"gateway-{os.getpid()}.json", "node-exporter.json"}


def test_one_that_has_died_but_was_not_waited_for_is_dead_too(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    list_target(tmp_path, "tiler", dead.pid, "127.0.0.1:1")
    clear_targets(tmp_path)
    assert listed(tmp_path) == set()
    dead.wait()


def test_a_folder_without_targets_is_fine(tmp_path: Path) -> None:
    clear_targets(tmp_path)


def test_a_target_says_whose_it_is(tmp_path: Path) -> None:
    path = list_target(tmp_path, "triton", 1, "127.0.0.1:8002", job="histgen-triton")

    assert json.loads(path.read_bytes()) == [
        {"targets": ["127.0.0.1:8002"], "labels": {"service": "triton", "job": "histgen-triton"}}
    ]


def test_the_launcher_is_a_target_while_it_runs_and_says_which_build_it_is(tmp_path: Path) -> None:
    with serve_metrics(tmp_path):
        (path,) = (tmp_path / "targets").iterdir()
        (target,) = json.loads(path.read_bytes())
        (address,) = target["targets"]
        page = httpx.get(f"http://{address}/metrics", timeout=30).text
    assert "histgen_build_info{" in page
    assert target["labels"] == {"service": "up"}
    assert listed(tmp_path) == set()
