"""How much memory a job's process holds, how much it may hold, and its end if it holds more."""

from __future__ import annotations

import math
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

DEFAULT_BYTES = 8 << 30
"""Some ten copies of a bag are held while it is packed: 2 GB for 100,000 tiles of 1,024 features. Ordinary
slides have fewer tiles; few have three times as many."""
_SHARE = 0.75
"""Of the machine or container: running out of that memory would end the whole worker, or other processes."""

_COUNTED = (b"RssAnon:", b"RssShmem:", b"VmSwap:")
"""Not files that are mapped (slides, libraries, models): the system drops their pages when it needs
memory."""

LOOK_S = 0.05
"""The time between two looks: a process can get some hundred MiB in it."""


def memory_of(pid: int | None) -> int:
    """Return the bytes that a process holds and only it can give back; 0 if that is unknown.

    Memory that it shares with a model server counts; address space that it only reserved does not.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_bytes().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(_COUNTED))


class MemoryWatch:
    """Ends a process that holds more than `limit_bytes` during the `with` block; `over` says that it did.

    A thread watches, so that nothing that this process waits for gives the other one time to grow.
    """

    def __init__(self, pid: int | None, limit_bytes: float) -> None:
        self._pid, self._limit = pid, limit_bytes
        self._done, self.over = threading.Event(), False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> MemoryWatch:
        if self._pid is not None and self._limit < math.inf:
            with suppress(OSError):  # it is gone
                handle = os.pidfd_open(self._pid)
                self._thread = threading.Thread(target=self._look, args=(handle,), daemon=True)
                self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread:
            self._thread.join()

    def _look(self, handle: int) -> None:
        while not self.over and not self._done.wait(LOOK_S):
            if memory_of(self._pid) > self._limit:
                self.over = True
                with suppress(OSError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)


def default_limit_bytes() -> int:
    """Return 8 GiB, or three quarters of what this machine or container has, whichever is less."""
    return int(min(DEFAULT_BYTES, _SHARE * min([machine_bytes(), *_container_bytes()])))


def machine_bytes() -> int:
    """Return how much memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _container_bytes(own: Path = Path("/proc/self/cgroup"), tree: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Return the limits of the control groups (version 2) that this process is in."""
    try:
        paths = [
            line.removeprefix("0::/") for line in own.read_text().splitlines() if line.startswith("0::/")
        ]
    except OSError:
        return []
    folders = [folder for path in paths for folder in (tree / path, *(tree / path).parents)]
    return [limit for folder in folders if folder.is_relative_to(tree) and (limit := _limit(folder))]


def _limit(folder: Path) -> int:
    """Return a group's limit; 0 for one without."""
    try:
        return int((folder / "memory.max").read_text())
    except (OSError, ValueError):
        return 0
