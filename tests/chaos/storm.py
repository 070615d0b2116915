"""A storm over a whole `histgen up`: it and its processes are killed, stopped, held or frozen at random."""

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

from histgen_lib.client.connection import Target, connect

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
"""The relative frequency of faults by kind of process."""
SUPERVISOR = 0.08
"""The share of faults that hit the supervisor: restarting the stack takes many seconds."""
GAP_S = {UP: 40.0, "kafka": 12.0, "tritonserver": 10.0}
"""The least time between two faults of a kind that starts slowly; one second for other kinds."""
FAULTS = ("kill", "kill", "stop", "hold", "freeze")
"""SIGKILL, SIGTERM, SIGSTOP for a while, and SIGSTOP for good, after which it has to be replaced."""
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGTERM}
HELD_S = (0.3, 4.0)
WATCHDOG_S = 15.0
"""A frozen supervisor is killed after this time, as systemd's watchdog does."""


class Storm:
    """Keeps `histgen up` running in `home`, as systemd would, and injects faults into its processes."""

    def __init__(
        self,
        home: Path,
        model: Path,
        options: Iterable[object],
        environment: Mapping[str, str],
        *,
        log: Path,
    ) -> None:
        self._log = log
        self.home, self.injected, self.starts, self.given_up = home, Counter[str](), 0, 0
        self.seen: set[tuple[int, int]] = set()
        """Every process seen: its id and its start time, as ids are reused."""
        self._expected_end, self._frozen_at = False, None
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
            *map(str, options),
        ]
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self._start()

    def _start(self) -> None:
        with self._log.open("ab") as log:
            self._up = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)
        self.starts, self._expected_end, self._frozen_at = self.starts + 1, False, None

    def tend(self) -> None:
        """Resume processes held long enough; replace the supervisor if it ended or is frozen."""
        for pid in [pid for pid, due in self._held.items() if time.monotonic() >= due]:
            self._signal(pid, signal.SIGCONT)
            del self._held[pid]
        if self._frozen_at is not None and time.monotonic() - self._frozen_at > WATCHDOG_S:
            self._up.kill()
            self._up.wait()
        if self._up.poll() is not None:
            self.given_up += not self._expected_end
            self._start()

    def inject(self, chance: random.Random) -> bool:
        """Inject a fault into one process, its kind drawn by weight; return whether it took effect."""
        pids = self.processes()
        kinds = sorted({kind for kind in pids.values() if kind in WEIGHTS})
        kind = UP
        if chance.random() > SUPERVISOR and kinds:
            (kind,) = chance.choices(kinds, [WEIGHTS[kind] for kind in kinds])
        if time.monotonic() - self._last.get(kind, 0.0) < GAP_S.get(kind, 1.0):
            return False
        self._last[kind] = time.monotonic()
        pid = chance.choice(sorted(pid for pid, its in pids.items() if its == kind))
        fault = chance.choice(FAULTS)
        if not self._signal(pid, _SIGNALS.get(fault, signal.SIGSTOP)):
            return False
        self.injected[f"{kind} {fault}"] += 1
        if fault == "hold":
            self._held[pid] = time.monotonic() + chance.uniform(*HELD_S)
        elif pid == self._up.pid:
            self._expected_end = True
            self._frozen_at = time.monotonic() if fault == "freeze" else None
        return True

    def processes(self) -> dict[int, str]:
        """Return the kind of each process of the stack."""
        found = {self._up.pid: UP} | {pid: _kind(pid) for pid in _below(self._up.pid)}
        self.seen |= {(pid, began(pid)) for pid in found}
        return found

    def is_whole(self) -> bool:
        """Return whether every service and a job process are running."""
        return {"gateway", "tiler", "reporter", "job process"} <= set(self.processes().values())

    def spared(self) -> set[str]:
        """Return the kinds of process that no fault hit."""
        return {kind for kind in (*WEIGHTS, UP) if not any(name.startswith(kind) for name in self.injected)}

    def calm(self) -> None:
        """Resume all held processes."""
        for pid in self._held:
            self._signal(pid, signal.SIGCONT)
        self._held.clear()

    def stream(self) -> Stream:
        """Return the stack as a stream, once its broker is known."""
        found = connect(Target(home=self.home), {})
        place = Place(found.need_bus(), found.storage)
        return Stream(place, self._log.parent, self.home, logs=self.home / "logs")

    def stop(self) -> int:
        """Stop it as systemd does; return its exit code."""
        self.processes()
        self._expected_end = True
        self._up.terminate()
        try:
            return self._up.wait(180)
        finally:
            self.end()

    def end(self) -> None:
        """Kill it at once, and wait until all its processes are gone."""
        self.calm()
        self._up.kill()
        self._up.wait()
        until(lambda: not self.left(), 60, f"every process of the stack to end: {self.left()}")

    def left(self) -> list[int]:
        """List the processes that still run."""
        return [pid for pid, since in self.seen if running(pid) and began(pid) == since]

    def _signal(self, pid: int, number: signal.Signals) -> bool:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True


def began(pid: int) -> int:
    """Return the start time of a process in clock ticks since boot; 0 if it does not exist."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


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
