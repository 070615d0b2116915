"""How long `histgen status` takes where the store has seen 100,000 slides, Python's start included."""

from __future__ import annotations

import json
import statistics
import time

import pytest
from cli_runs import histgen
from many_slides import plant_many
from running_stack import stack_up
from waiting import until

SLIDES, RUNS = 100_000, 15


@pytest.mark.timeout(3600)
def test_status_of_many_slides(tmp_path, model_dir):
    home = tmp_path / "home"
    totals = plant_many(home / "objects", SLIDES)
    with stack_up(home, "--inference", "onnx", "--model", model_dir) as stack:
        began = time.monotonic()
        until(lambda: stack.json("status")["index"]["complete"], 1800, "the index to be whole", every_s=1.0)
        print(f"\n{SLIDES:,} slides, the index made anew: {time.monotonic() - began:.0f} s")
        tell("on a running stack", home, totals)
    tell("on a stopped stack", home, totals)
    tell("page 500", home, totals, "--page", 500)
    tell("dead letters", home, totals, "--state", "dead-letter")
    tell("one slide", home, None, "slide-000007")


def tell(what: str, home, totals, *options: object) -> None:
    """Run the command in processes of its own; print the median and the longest."""
    seconds = []
    for _ in range(RUNS):
        began = time.monotonic()
        run = histgen("status", *options, "--home", home, "--json")
        seconds.append(time.monotonic() - began)
        assert run.code == 0, run.said
        assert totals is None or json.loads(run.out)["counts"] == totals
    print(f"status {what}: {statistics.median(seconds):.2f} s, at most {max(seconds):.2f} s")
