"""A `histgen up` in a process of its own, for tests."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli_runs import Run
from waiting import until

from histgen_lib.cli.app import run

STOP_S = 120.0


@dataclass
class RunningStack:
    """The stack's process, what it printed once it was ready, and the commands that talk to it."""

    process: subprocess.Popen[str]
    home: Path
    record: dict[str, Any]

    def __call__(self, *arguments: object) -> Run:
        """Run a command, in this process."""
        out, err = io.StringIO(), io.StringIO()
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = run([*map(str, arguments), "--home", str(self.home)])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return Run(code, out.getvalue(), err.getvalue())

    def json(self, *arguments: object) -> Any:
        run = self(*arguments, "--json")
        return json.loads(run.out)

    def pid_of(self, service: str) -> int:
        """Return the process id of a service that listens."""
        found = until(lambda: self._announced(service), 60, f"a {service}")
        return int(json.loads(found[0].read_text())["pid"])

    def pids(self) -> list[int]:
        """List every process below the stack's."""
        return below(self.process.pid)

    def _announced(self, service: str) -> list[Path]:
        pids = self.pids()
        files = (self.home / "run").glob(f"{service}-*.json")
        return [path for path in files if int(path.stem.rpartition("-")[2]) in pids]


def children(task: Path) -> list[int]:
    """Read the children of a thread; none if it has ended."""
    try:
        return [int(pid) for pid in task.read_text().split()]
    except OSError:
        return []


def below(pid: int) -> list[int]:
    """List every process below one."""
    found, waiting = [], [pid]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            waiting += children(task)
            found += children(task)
    return found


def interrupt_starts(
    home: Path, *options: object, chance: random.Random, times: int, within_s: float
) -> None:
    """Kill a stack, or any process of it, `times` times, each at a random moment of its first seconds."""
    process: subprocess.Popen[bytes] | None = None
    for _ in range(times):
        if process is None or process.poll() is not None:
            process = subprocess.Popen(command(home, *options), stdout=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.2, within_s))  # the moment is what is tested
        victim = chance.choice([process.pid] * 2 + below(process.pid))
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        if victim == process.pid:
            process.wait()
    if process is not None:
        process.kill()
        process.wait()


def command(home: Path, *options: object) -> list[str]:
    """Return what starts a stack."""
    return [sys.executable, "-m", "histgen_lib.cli", *map(str, ("up", "--home", home, *options))]


def alive(pids: list[int]) -> list[int]:
    """Return those that run; zombies do not."""
    running = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            running.append(pid)
    return running


def _said(process: subprocess.Popen[str], err: Path) -> dict[str, Any]:
    """Read what the stack prints when it is ready."""
    assert process.stdout is not None
    text = ""
    while not text.endswith("}\n"):
        line = process.stdout.readline()
        assert line, err.read_text()
        text += line
    return dict(json.loads(text))


@contextmanager
def stack_up(
    home: Path, *options: object, env: dict[str, str] | None = None, err: Path | None = None
) -> Iterator[RunningStack]:
    """Start a stack, and stop it by Ctrl-C. `err`: the file for its stderr."""
    err = err or home.parent / f"{home.name}.err"
    process = subprocess.Popen(
        command(home, "--json", *options),
        stdout=subprocess.PIPE,
        stderr=err.open("w"),
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", **(env or {})},
    )
    try:
        yield RunningStack(process, home, _said(process, err))
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # says where it hangs, by PYTHONFAULTHANDLER
            process.wait()
            raise AssertionError(err.read_text()) from None
        finally:
            process.kill()
