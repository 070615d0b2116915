"""The processes in which a tritonserver runs Python models ("stubs"): found, and ended when it is gone."""

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
"""What the server's shared memory, whose name stands in a stub's command, is called after."""


def stubs_of(server: int | None) -> dict[int, list[str]]:
    """Find a server's living stubs: process ids and command lines."""
    found: list[int] = []
    for task in Path(f"/proc/{server}/task").glob("*/children") if server else ():
        with contextlib.suppress(OSError):  # a thread that has just ended
            found += map(int, task.read_text().split())
    return _stubs_among(found)


class StubWatch:
    """Notices cheaply that a server's stub ended, or that it is another server. `server`: its process id."""

    def __init__(self, server: Callable[[], int | None]) -> None:
        self._server = server
        self._known: tuple[int | None, frozenset[int]] = None, frozenset()
        self._ends = _Ends()

    def disturbed(self) -> bool:
        """Whether that happened since it was asked last."""
        server, (known, stubs) = self._server(), self._known
        if server == known and stubs and not self._ends.any():
            return False
        self._known = server, frozenset(stubs_of(server))
        self._ends.watch(self._known[1])
        return self._known != (known, stubs)


class _Ends:
    """Tells of processes' ends as the kernel does. Where it does not, one may have come at any time."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._told = False

    def watch(self, pids: Iterable[int]) -> None:
        """Watch these, and no others any more."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors, self._told = [], True
        for pid in pids:
            try:
                self._descriptors.append(os.pidfd_open(pid))
            except (OSError, AttributeError):  # it has just ended, or there are no such descriptors
                self._told = False

    def any(self) -> bool:
        """Whether one may have ended."""
        ended = select.poll()
        for descriptor in self._descriptors:
            ended.register(descriptor, select.POLLIN)
        return not self._told or bool(ended.poll(0))


class FrozenStubs:
    """Stubs that were stopped where they stand: neither the server nor a canary would notice for long."""

    def __init__(self) -> None:
        self._silences: dict[int, Silence] = {}

    def end(self, stubs: Mapping[int, Sequence[str]], limit_s: float) -> list[Sequence[str]]:
        """Kill those of `stubs` that were stopped at every look for `limit_s`; return their commands."""
        self._silences = {pid: self._silences.get(pid) or Silence(limit_s) for pid in stubs}
        frozen = [pid for pid in stubs if self._silences[pid].lasts(alive=not is_stopped(pid))]
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return [stubs[pid] for pid in frozen]


def end_left_over(regions: str | None = None) -> None:
    """Kill stubs whose server is gone: those of the shared memory `regions`, and of starters that have ended.

    One that was at work when its server was killed waits for it for ever.
    """
    for pid, command in _stubs_among(_processes()).items():
        names = [part for part in command if part.startswith(f"histgen-{KIND}-")]
        if any((regions and name.startswith(regions)) or shared_memory.is_orphan(name) for name in names):
            with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
                os.kill(pid, signal.SIGKILL)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _stubs_among(pids: list[int]) -> dict[int, list[str]]:
    # One that was killed stays until its parent asks for it, but has no command any more.
    commands = {pid: _command(pid) for pid in pids}
    return {pid: command for pid, command in commands.items() if Path(command[0]).name == PROGRAM}


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return [""]
