"""A whole `histgen up` in a storm: it and its processes are killed, stopped and held at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from harness import Place, Stream
from processes import running
from waiting import until

from histgen_lib.stack.connection import Stated, connect

KINDS = {
    "kafka.Kafka": "kafka",
    "triton_python_backend_stub": "stub",
    "bin/tritonserver": "tritonserver",
    "services.gateway": "gateway",
    "services.tiler": "tiler",
    "services.reporter": "reporter",
    "spawn_main": "job process",
}
UP = "histgen up"
WEIGHTS = {
    "kafka": 2,
    "tritonserver": 2,
    "stub": 2,
    "gateway": 2,
    "tiler": 4,
    "reporter": 2,
    "job process": 4,
}
"""How often each kind is struck, in proportion."""
SUPERVISOR = 0.08
"""How often it is the supervisor: a new start of the whole takes many seconds, with little to strike."""
GAP_S = {UP: 20.0, "kafka": 12.0, "tritonserver": 10.0}
"""How far apart two blows of a kind are, at least, that takes long to come up; of others a second."""
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
HELD_S = (0.3, 4.0)


class Storm:
    """Keeps `histgen up` running in `home`, as a person or systemd would, and strikes what it consists of."""

    def __init__(
        self, home: Path, model: Path, options: Iterable[str], environment: Mapping[str, str]
    ) -> None:
        self.home, self.struck, self.starts, self.given_up = home, Counter[str](), 0, 0
        self.seen: set[int] = set()
        self._told = False
        self._held: dict[int, float] = {}
        self._last: dict[str, float] = {}
        self._command = [
            sys.executable,
            "-m",
            "histgen_lib.cli",
            "up",
            "--home",
            home,
            "--model",
            model,
            *options,
        ]
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self._start()

    def _start(self) -> None:
        with (self.home.parent / "up.log").open("ab") as log:
            self._up = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)
        self.starts, self._told = self.starts + 1, False

    def tend(self) -> None:
        """Let go what was held long enough; start the supervisor again if it ended."""
        for pid in [pid for pid, due in self._held.items() if time.monotonic() >= due]:
            self._signal(pid, signal.SIGCONT)
            del self._held[pid]
        if self._up.poll() is not None:
            self.given_up += not self._told
            self._start()

    def strike(self, chance: random.Random) -> bool:
        """Strike one process, of a kind that is there, drawn by weight; say whether there was one."""
        pids = self.processes()
        kinds = sorted({kind for kind in pids.values() if kind in WEIGHTS})
        kind = UP
        if chance.random() > SUPERVISOR and kinds:
            (kind,) = chance.choices(kinds, [WEIGHTS[kind] for kind in kinds])
        if time.monotonic() - self._last.get(kind, 0.0) < GAP_S.get(kind, 1.0):
            return False
        self._last[kind] = time.monotonic()
        pid = chance.choice(sorted(pid for pid, its in pids.items() if its == kind))
        number = chance.choice(SIGNALS)
        if not self._signal(pid, number):
            return False
        self.struck[f"{kind} {number.name}"] += 1
        if number is signal.SIGSTOP:
            self._held[pid] = time.monotonic() + chance.uniform(*HELD_S)
        elif pid == self._up.pid:
            self._told = True
        return True

    def processes(self) -> dict[int, str]:
        """Name each process of the stack by its kind."""
        found = {self._up.pid: UP} | {pid: _kind(pid) for pid in _below(self._up.pid)}
        self.seen |= found.keys()
        return found

    def calm(self) -> None:
        """Let everything go that is held."""
        for pid in self._held:
            self._signal(pid, signal.SIGCONT)
        self._held.clear()

    def stream(self) -> Stream:
        """Look at what it makes, once it says where its broker is."""
        found = connect(Stated(home=self.home), {})
        return Stream(Place(found.need_bus(), found.storage), self.home.parent, self.home)

    def stop(self) -> int:
        """Stop it as systemd does; return its exit code."""
        self.processes()
        self._told = True
        self._up.terminate()
        try:
            return self._up.wait(180)
        finally:
            self.end()

    def end(self) -> None:
        """End it at once, and with it all it has started."""
        self.calm()
        self._up.kill()
        self._up.wait()
        until(lambda: not any(running(pid) for pid in self.seen), 60, "every process of the stack to end")

    def _signal(self, pid: int, number: signal.Signals) -> bool:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True


def _below(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from _below(child)


def _kind(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
    return next((kind for part, kind in KINDS.items() if part in command), "")
