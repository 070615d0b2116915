"""What `histgen status` and the live views cost with ten slides in the store, and with 100,000.

Prints the time of `histgen status`, including Python's start; the peak memory of `histgen up`; and the time
of one poll, as `histgen up` and `histgen watch` do it.
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

RUNS, POLLS = 15, 100


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("slides", [10, 100_000])
def test_status_of_many_slides(tmp_path, model_dir, slides):
    home = tmp_path / "home"
    totals = plant_many(home / "objects", slides)
    with stack_up(home, "--inference", "onnx", "--model", model_dir) as stack:
        began = time.monotonic()
        until(lambda: stack.json("status")["index"]["complete"], 1800, "a complete index", every_s=1.0)
        print(f"\n{slides:,} slides, index rebuilt in {time.monotonic() - began:.0f} s")
        measure_polls(home, totals)
        print(f"histgen up: peak memory {peak_megabytes(stack.process.pid)} MB")
        measure_status("on a running stack", home, totals)
    measure_status("on a stopped stack", home, totals)
    measure_status("page 500", home, totals, "--page", 500)
    measure_status("dead letters", home, totals, "--state", "dead-letter")
    measure_status("one slide", home, None, "slide-000007")


def measure_polls(home: Path, totals) -> None:
    """Poll in this process, as a view does; print the median and the longest time."""
    poller, seconds = open_poller(connect(Target(home=home), {})), []
    assert isinstance(poller, IndexPoller)
    for _ in range(POLLS):
        began = time.perf_counter()
        seen = poller.poll()
        seconds.append(time.perf_counter() - began)
        assert seen.totals == totals
    print(f"a poll: {1000 * statistics.median(seconds):.1f} ms, at most {1000 * max(seconds):.1f} ms")


def peak_megabytes(pid: int) -> int:
    """Return the peak memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1000


def measure_status(what: str, home, totals, *options: object) -> None:
    """Run `histgen status` RUNS times; print the median and the longest time."""
    seconds = []
    for _ in range(RUNS):
        began = time.monotonic()
        run = histgen("status", *options, "--home", home, "--json")
        seconds.append(time.monotonic() - began)
        assert run.code == 0, run.output
        assert totals is None or json.loads(run.out)["counts"] == totals
    print(f"status {what}: {statistics.median(seconds):.2f} s, at most {max(seconds):.2f} s")
