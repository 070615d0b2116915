"""CPU use of each process of an idle stack, in percent of one core (`make bench-idle`)."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import tiny_model
from running_stack import RunningStack, stack_up

SETTLE_S, REST_S, WARM_UP = 45.0, 60.0, 3
"""The stack drafts WARM_UP slides first, then has SETTLE_S to become idle."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
NAMES = {
    "kafka.Kafka": "Kafka (Java)",
    "triton_python_backend_stub": "a model's process",
    "tritonserver": "tritonserver",
    "services.gateway": "gateway",
    "services.tiler": "tiler",
    "services.reporter": "reporter",
    "spawn_main": "job process",
    "resource_tracker": "job process's tracker",
    "histgen_lib.cli": "histgen up",
}


def ticks(pid: int) -> int:
    """Return the CPU time of a process, user and system, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def name(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return next(shown for part, shown in NAMES.items() if part in command)


def rest(stack: RunningStack) -> dict[str, float]:
    """Leave the stack idle for REST_S; return the percentage of a core by process."""
    pids = [stack.process.pid, *stack.pids()]
    before, began = {pid: ticks(pid) for pid in pids}, time.monotonic()
    time.sleep(REST_S)
    seconds = time.monotonic() - began
    used = {pid: 100 * (ticks(pid) - before[pid]) / TICKS_PER_S / seconds for pid in pids}
    assert [stack.process.pid, *stack.pids()] == pids, "a process was restarted"
    return {f"{name(pid)} ({pid})": percent for pid, percent in used.items()}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("broker", ["embedded", "kafka"])
def test_cpu_use_of_an_idle_stack(broker, model_dir, tmp_path):
    slides = [tiny_model.write_slide(tmp_path / f"{n}.tif", seed=n) for n in range(WARM_UP)]
    options = ("--inference", "triton", "--model", model_dir, "--broker", broker, "--allow", tmp_path)
    with stack_up(tmp_path / "home", *options) as stack:
        run = stack("submit", *slides, "--wait")
        assert run.code == 0, run.output
        time.sleep(SETTLE_S)
        used = rest(stack)
    ours = sum(percent for shown, percent in used.items() if "Java" not in shown)
    print(f"\nIdle on the {broker} broker, percent of one core over {REST_S:.0f} s:")
    for shown, percent in used.items():
        print(f"  {percent:6.2f}  {shown}")
    print(f"  {ours:6.2f}  without Java")
