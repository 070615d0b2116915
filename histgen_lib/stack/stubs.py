"""The processes in which a tritonserver runs Python models ("stubs"): finding, watching and ending them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from histgen_lib.inference import shared_memory
from histgen_lib.runtime.silence import Silence, is_stopped

PROGRAM = "triton_python_backend_stub"
KIND = "triton"
"""Part of the name of the server's shared memory, which a stub has in its command line."""


def stubs_of(server: int | None) -> dict[int, list[str]]:
    """Return the command lines of a server's living stubs, by process id."""
    found: list[int] = []
    for task in Path(f"/proc/{server}/task").glob("*/children") if server else ():
        with contextlib.suppress(OSError):  # a thread that has just ended
            found += map(int, task.read_text().split())
    return _stubs_among(found)


class StubWatch:
    """Notices, cheaply, that a stub ended or the server was replaced. `server` returns its process id."""

    def __init__(self, server: Callable[[], int | None]) -> None:
        self._server = server
        self._known: tuple[int | None, frozenset[int]] = None, frozenset()
        self._ends = _EndWatch()

    def disturbed(self) -> bool:
        """Return whether that has happened since the last call."""
        server, (known, stubs) = self._server(), self._known
        if server == known and stubs and not self._ends.any():
            return False
        self._known = server, frozenset(stubs_of(server))
        self._ends.watch(self._known[1])
        return self._known != (known, stubs)


class _EndWatch:
    """Learns of processes' ends from the kernel. Where it cannot, any process may have ended at any time."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._watching = False

    def watch(self, pids: Iterable[int]) -> None:
        """Watch these processes instead of the earlier ones."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors, self._watching = [], True
        for pid in pids:
            try:
                self._descriptors.append(os.pidfd_open(pid))
            except (OSError, AttributeError):  # it has just ended, or the system has no such descriptors
                self._watching = False

    def any(self) -> bool:
        """Return whether one may have ended."""
        ended = select.poll()
        for descriptor in self._descriptors:
            ended.register(descriptor, select.POLLIN)
        return not self._watching or bool(ended.poll(0))


class FrozenStubs:
    """Ends stubs that were stopped (SIGSTOP), which neither the server nor a canary notices for long."""

    def __init__(self) -> None:
        self._silences: dict[int, Silence] = {}

    def end(self, stubs: Mapping[int, Sequence[str]], limit_s: float) -> list[Sequence[str]]:
        """Kill the `stubs` found stopped at every call for `limit_s`; return their commands."""
        self._silences = {pid: self._silences.get(pid) or Silence(limit_s) for pid in stubs}
        frozen = [pid for pid in stubs if self._silences[pid].lasts(alive=not is_stopped(pid))]
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return [stubs[pid] for pid in frozen]


def end_left_over(regions: str | None = None) -> None:
    """Kill stubs whose server is gone: those of the shared memory `regions`, and of stacks that have ended.

    A stub that was working when its server was killed would wait for it forever.
    """
    for pid, command in _stubs_among(_processes()).items():
        names = [part for part in command if part.startswith(f"histgen-{KIND}-")]
        if any((regions and name.startswith(regions)) or shared_memory.is_orphan(name) for name in names):
            with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to another user
                os.kill(pid, signal.SIGKILL)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _stubs_among(pids: list[int]) -> dict[int, list[str]]:
    # A killed process stays until its parent reaps it, but has no command any more.
    commands = {pid: _command(pid) for pid in pids}
    return {pid: command for pid, command in commands.items() if Path(command[0]).name == PROGRAM}


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return [""]
