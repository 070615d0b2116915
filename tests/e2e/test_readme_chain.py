"""README's "Train and score", typed as it stands: each command works on what the one before has left."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

from cli_runs import histgen

ROOT = Path(__file__).resolve().parents[2]
_FEWER = {"--count": "9"}
"""Fewest slides of seed 7 with all three splits in them. The training's length is changed, too; no more."""


def _commands() -> list[list[str]]:
    block = re.search(r"## Train and score\n+```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    lines = [line for line in block[1].splitlines() if line.startswith("histgen ")]
    return [_smaller(shlex.split(line, comments=True)[1:]) for line in lines]


def _smaller(words: list[str]) -> list[str]:
    pairs = zip(["", *words], words, strict=False)
    changed = [_FEWER.get(before, word) for before, word in pairs]
    return [*changed, "--epochs", "1", "--threads", "1"] if changed[0] == "train" else changed


def test_readmes_commands_work_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "histgen_lib").symlink_to(ROOT / "histgen_lib")
    commands = _commands()
    assert [command[0] for command in commands] == ["synth", "encode", "train", "evaluate", "evaluate"]
    for command in commands[:-1]:
        run = histgen(*command, cwd=tmp_path)
        assert run.code == 0, run.said
    assert "test: 1 of 1 cases used" in run.err
    with (tmp_path / "scores" / "predictions.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    [case] = json.loads((tmp_path / "world" / "annotation.json").read_bytes())["test"]
    assert [(row["id"], row["reference"]) for row in rows] == [(case["id"], case["report"])]
    again = histgen(*commands[-1], "--tokenize", "none", "--json", cwd=tmp_path)
    assert again.code == 0, again.said
    first = json.loads((tmp_path / "scores" / "metrics.json").read_bytes())
    assert json.loads(again.out)["metrics"] == first["metrics"]
    assert histgen(*commands[-1], cwd=tmp_path).code == 0
