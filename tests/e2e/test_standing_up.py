"""`histgen up` recovers from temporary failures: full disks, kills during its first start, freezes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny_model
from cli_runs import histgen
from running_stack import RunningStack, alive, below, command, interrupt_starts, stack_up
from small_disk import SmallDisk, small_disk
from waiting import until

SERVICES = {"gateway", "tiler", "reporter"}
LONG_S = 180.0


def ready(stack: RunningStack) -> set[str]:
    return {service["name"] for service in stack.json("watch")["services"] if service["ready"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("standing")


@pytest.fixture(scope="module")
def disk(folder) -> Iterator[SmallDisk]:
    with small_disk(folder / "disk") as disk:
        yield disk


@pytest.fixture(scope="module")
def stack(disk, folder, model_dir, triton_home) -> Iterator[RunningStack]:
    """Run a stack on a small disk that is full at first: it waits for room, then comes up."""
    disk.fill()
    with ThreadPoolExecutor(1) as other:
        freed = other.submit(free_once_it_is_reported, disk, folder)
        options = ("--inference", "triton", "--model", model_dir, "--frozen-after", 10)
        with stack_up(disk.folder / "home", *options, err=folder / "err") as stack:
            freed.result()
            yield stack


def free_once_it_is_reported(disk: SmallDisk, folder: Path) -> None:
    def output() -> bool:
        return (folder / "err").exists() and "is full" in (folder / "err").read_text()

    until(output, LONG_S, "it to say what it lacks")
    disk.free()


@pytest.fixture
def output(folder, stack):
    """Return what the stack has printed since the test began."""
    before = len((folder / "err").read_text())
    return lambda: (folder / "err").read_text()[before:]


def test_a_start_on_a_full_disk_reports_it_in_one_line_and_continues_once_there_is_space(stack, folder):
    lines = (folder / "err").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("the start keeps failing")]

    assert f"The disk of {stack.home} is full: free space on it. [disk-full]" in line
    assert line.endswith("It is retried until it works.")
    assert "the start has recovered." in lines
    assert ready(stack) == SERVICES


def test_services_killed_while_the_disk_is_full_come_back_once_there_is_space(stack, disk, output):
    before = {service: stack.pid_of(service) for service in SERVICES}
    disk.fill()
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    for name in SERVICES:
        until(lambda name=name: f"{name} keeps failing: The disk of " in output(), LONG_S, name)
    assert stack.process.poll() is None
    disk.free()
    until(lambda: ready(stack) == SERVICES, LONG_S, "all to be ready")


def test_frozen_processes_are_replaced_reported_and_counted(stack, output):
    """All at once; another process finishes the tiler's job, and no attempt is lost."""
    until(lambda: ready(stack) == SERVICES, LONG_S, "all to be ready")
    frozen = {name: stack.pid_of(name) for name in ("gateway", "reporter")}
    frozen["triton"] = find(stack, "bin/tritonserver")
    frozen["the tiler's child"] = find(stack, "spawn_main", parent=stack.pid_of("tiler"))
    for pid in frozen.values():
        os.kill(pid, signal.SIGSTOP)
    until(lambda: not alive(list(frozen.values())), LONG_S, "all of them to be ended")
    until(lambda: ready(stack) == SERVICES, LONG_S, "all to be ready")
    slide = tiny_model.write_slide(stack.home / "afterwards.tif")
    run = stack("submit", slide, "--wait")

    assert run.code == 0, run.output
    for name in ("gateway", "reporter", "triton"):
        assert f"The {name} showed no sign of life for " in output()
        assert restarts(stack, name, "frozen") == 1


def test_a_frozen_models_process_is_replaced(stack, output):
    stub = find(stack, "triton_python_backend_stub")
    os.kill(stub, signal.SIGSTOP)
    until(lambda: not alive([stub]), LONG_S, "it to be ended")
    until(lambda: ready(stack) == SERVICES, LONG_S, "all to be ready")

    assert "was stopped for 10 s, and was killed." in output()


def test_a_process_frozen_together_with_its_supervisor_continues(stack, output):
    """As on a laptop that slept."""
    before = {service: stack.pid_of(service) for service in SERVICES}
    every = [stack.process.pid, *stack.pids()]
    for pid in every:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(12.0)  # longer than the limit: nothing can be waited for while all stand still
    for pid in reversed(every):
        os.kill(pid, signal.SIGCONT)
    until(lambda: ready(stack) == SERVICES, LONG_S, "all to be ready")

    assert {service: stack.pid_of(service) for service in SERVICES} == before
    assert "no life" not in output()


def find(stack: RunningStack, part: str, parent: int | None = None) -> int:
    """Return the process id of what the stack runs that has `part` in its command."""

    def found() -> list[int]:
        return [pid for pid in below(parent or stack.process.pid) if part in command_of(pid)]

    return until(found, 60, part)[0]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def restarts(stack: RunningStack, part: str, why: str) -> float:
    """Read how often a part was restarted, from where Prometheus does."""
    (target_file,) = (stack.home / "run" / "targets").glob("up-*.json")
    (address,) = json.loads(target_file.read_text())[0]["targets"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    series = f'histgen_restarts_total{{part="{part}",why="{why}"}} '
    return float(next(line for line in lines if line.startswith(series)).removeprefix(series))


def test_a_stack_killed_at_any_moment_of_its_first_start_comes_up_the_next_time(tmp_path, model_dir):
    """Also on Kafka with Triton: tests/chaos/test_soak_first_start.py."""
    home, options = tmp_path / "home", ("--inference", "onnx", "--model", model_dir)
    interrupt_starts(home, *options, chance=random.Random(16), times=8, within_s=2.5)
    with stack_up(home, *options) as stack:
        assert ready(stack) == SERVICES


@pytest.mark.parametrize(
    ("lack", "words"),
    [("fill_inodes", "has no inodes left"), ("close", "is read-only")],
)
def test_a_start_on_a_disk_that_takes_no_file_waits_until_it_does(lack, words, tmp_path, model_dir):
    with small_disk(tmp_path / "disk", 8, inodes=60) as disk, (tmp_path / "out").open("wb") as out:
        (disk.folder / "home").mkdir(mode=0o700)
        getattr(disk, lack)()
        options = ("--inference", "onnx", "--model", model_dir)
        starting = subprocess.Popen(command(disk.folder / "home", *options), stdout=out)
        try:
            until(lambda: words in (tmp_path / "out").read_text(), 60, "it to say what it lacks")
            disk.free()
            until(lambda: "the start has recovered." in (tmp_path / "out").read_text(), 60, "it to go on")
            starting.send_signal(signal.SIGINT)
            assert starting.wait(120) in (0, 130)
        finally:
            starting.kill()
            starting.wait()


@pytest.mark.parametrize("seconds", ["5", "-1", "nan", "inf"])
def test_a_limit_that_a_busy_machine_would_exceed_is_refused(seconds, tmp_path):
    run = histgen("up", "--home", tmp_path / "home", f"--frozen-after={seconds}")

    assert run.code == 2
    assert "10 seconds to a day" in run.err
