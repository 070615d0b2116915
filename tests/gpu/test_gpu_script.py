"""The GPU script works, so that it runs when a GPU is at hand, and finds what does not agree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gpu import graphs, reports, tiles
from gpu.__main__ import main
from gpu.bench import SMALL, Bench, random_model
from gpu.table import Table
from histgen_lib.models.histgen.decoding import DecodingSettings
from histgen_lib.models.histgen.torch_engine import TorchEngine

SCRIPT = Path(__file__).parent / "run.sh"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *options],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHON": sys.executable},
        check=False,
    )


def test_every_part_runs_at_small_sizes_on_the_cpu_and_agrees() -> None:
    done = run("--small", "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("All agree.")
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    for part in ("report", "training", "tiles", "graphs"):
        assert any(row.startswith(f"| {part}") and "| agrees |" in row for row in rows)
    assert "left out: engines (they run on GPUs only)" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_how_to_try_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.sh"])
    assert main() == 1
    assert "--small --device cpu" in capsys.readouterr().out


def test_a_part_that_breaks_fails_and_one_without_its_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Bench) -> None:
        raise RuntimeError("the device was lost")

    def without(_: Bench) -> None:
        raise ModuleNotFoundError("No module named 'timm'", name="timm")

    monkeypatch.setattr(sys, "argv", ["run.sh", "--small", "--device", "cpu", "--only", "tiles", "graphs"])
    monkeypatch.setattr(tiles, "run", without)
    monkeypatch.setattr(graphs, "run", broken)
    assert main() == 1
    printed = capsys.readouterr().out
    assert "left out: tiles (timm is not installed)" in printed
    assert "RuntimeError: the device was lost" in printed


def test_what_is_left_when_a_gpu_answers_with_errors_only_runs_in_another_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(bench: Bench) -> None:
        bench.table.figure("tiles", "one", "", "1 ms")
        raise RuntimeError("an illegal memory access")

    def wait(_: Bench) -> None:
        raise RuntimeError("an illegal memory access")

    started: list[list[str]] = []
    monkeypatch.setattr(
        sys, "argv", ["run.sh", "--small", "--only", "tiles", "graphs", "engines", "--device", "cpu"]
    )
    monkeypatch.setattr(tiles, "run", broken)
    monkeypatch.setattr(Bench, "wait", wait)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: started.append(command))
    assert main() == 1
    printed = capsys.readouterr()
    assert "an illegal memory access" in printed.out
    assert "tiles | one | 1 ms" in printed.err
    assert started[0][1:] == ["-m", "gpu", "--small", "--device", "cpu", "--only", "graphs", "engines"]


@pytest.fixture
def bench() -> Bench:
    torch.set_num_threads(1)
    return Bench(torch.device("cpu"), SMALL, random_model(SMALL.config), Table())


def test_a_path_that_computes_something_else_fails(bench: Bench) -> None:
    how = DecodingSettings(beam_size=2, max_tokens=6)
    truths = [reports.truth(bench, tiles, how) for tiles in SMALL.compared]
    other = random_model(SMALL.config)
    with torch.no_grad():
        for weight in other.decoder.parameters():
            weight.mul_(1.2)
    engine = TorchEngine(other, bench.device, torch.float32)
    found = [engine.write(*bench.slide(tiles), how) for tiles in SMALL.compared]
    reports.judge(bench, "another", "float32", found, truths)
    assert bench.table.failures > 0


def test_numbers_that_are_none_fail() -> None:
    table = Table()
    table.agree("part", "what", "", np.nan, 1.0)
    table.fail("part", "what", "why")
    assert table.failures == 2
    assert [line.count("|") for line in table.lines()] == [7] * 4
