"""Shared memory between processes of one machine, with names that identify its owner.

A name states which process made it, so that later processes can remove what a killed one left behind. Linux
only: elsewhere `available` returns False.
"""

from __future__ import annotations

import itertools
import mmap
import os
from contextlib import suppress
from pathlib import Path

TENSORS = "tensors"
"""The kind of the regions that hold requests."""
_FOLDER = Path("/dev/shm")
_counter = itertools.count()


def available() -> bool:
    """Return whether this machine has shared memory as we use it."""
    return _FOLDER.is_dir() and Path("/proc/self/ns/pid").exists()


def new_name(kind: str) -> str:
    """Make a unique name on this machine: kind, pid namespace, pid, start of the process, a number."""
    return f"histgen-{kind}-{_namespace()}-{os.getpid()}-{_start(os.getpid())}-{next(_counter)}"


def is_orphan(name: str) -> bool:
    """Return whether the name is from `new_name` in a process that has ended; of this pid namespace only."""
    parts = name.split("-")[:6]
    if len(parts) < 6 or parts[0] != "histgen" or not all(part.isdigit() for part in parts[2:]):
        return False
    return int(parts[2]) == _namespace() and _start(int(parts[3])) != int(parts[4])


def clear_orphans(kind: str) -> None:
    """Unlink what processes that have ended left; what belongs to another account stays."""
    for path in _FOLDER.glob(f"histgen-{kind}-*"):
        if is_orphan(path.name):
            with suppress(OSError):
                path.unlink()


def unlink(name: str) -> None:
    """Remove all regions whose names begin so; processes that have them mapped keep them."""
    for path in _FOLDER.glob(f"{name}*"):
        path.unlink(missing_ok=True)


class Region:
    """Shared memory of a fixed size, mapped here. Raises OSError if there is no room for it."""

    def __init__(self, kind: str, size_bytes: int) -> None:
        self.name = new_name(kind)
        self.size_bytes = size_bytes
        path = _FOLDER / self.name
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Reserves the pages: otherwise a write into a full /dev/shm would end the process.
            os.posix_fallocate(handle, 0, size_bytes)
            self.memory = mmap.mmap(handle, size_bytes)
        except OSError:
            self.unlink()
            raise
        finally:
            os.close(handle)

    @property
    def key(self) -> str:
        """Its name for `shm_open`."""
        return f"/{self.name}"

    def unlink(self) -> None:
        """Remove the name: then nothing is left behind, however the processes that have it mapped end."""
        (_FOLDER / self.name).unlink(missing_ok=True)

    def close(self) -> None:
        """Unmap it here."""
        self.unlink()
        self.memory.close()


def _namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _start(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; -1 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return -1
    state, *rest = fields.rpartition(")")[2].split()
    return -1 if state in "ZX" else int(rest[18])
