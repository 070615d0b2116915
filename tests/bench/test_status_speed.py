"""What `histgen status` and the views cost where the store has seen ten slides, and 100,000.

Of status the time, Python's start included; of `histgen up`, which follows from its start on, the most memory
that it ever held, and of a look as it and `histgen watch` do it the time.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import pytest
from cli_runs import histgen
from many_slides import plant_many
from running_stack import stack_up
from waiting import until

from histgen_lib.client.connection import Target, connect
from histgen_lib.client.following import IndexPoller, open_poller

RUNS, LOOKS = 15, 100


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("slides", [10, 100_000])
def test_status_of_many_slides(tmp_path, model_dir, slides):
    home = tmp_path / "home"
    totals = plant_many(home / "objects", slides)
    with stack_up(home, "--inference", "onnx", "--model", model_dir) as stack:
        began = time.monotonic()
        until(lambda: stack.json("status")["index"]["complete"], 1800, "the index to be whole", every_s=1.0)
        print(f"\n{slides:,} slides, the index made anew: {time.monotonic() - began:.0f} s")
        tell_looks(home, totals)
        print(f"histgen up: at most {most_megabytes(stack.process.pid)} MB")
        tell("on a running stack", home, totals)
    tell("on a stopped stack", home, totals)
    tell("page 500", home, totals, "--page", 500)
    tell("dead letters", home, totals, "--state", "dead-letter")
    tell("one slide", home, None, "slide-000007")


def tell_looks(home: Path, totals) -> None:
    """Look in this process, as a view does."""
    sight, seconds = open_poller(connect(Target(home=home), {})), []
    assert isinstance(sight, IndexPoller)
    for _ in range(LOOKS):
        began = time.perf_counter()
        seen = sight.poll()
        seconds.append(time.perf_counter() - began)
        assert seen.totals == totals
    print(f"a look: {1000 * statistics.median(seconds):.1f} ms, at most {1000 * max(seconds):.1f} ms")


def most_megabytes(pid: int) -> int:
    """Read how much memory a process ever held at once."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1000


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
