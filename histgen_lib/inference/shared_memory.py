"""Shared memory between processes of one machine, with names that identify its owner.

A name states which process made it, so that later processes can remove what a killed one left behind. Linux
only: elsewhere `available` returns False.
"""

from __future__ import annotations

import itertools
import logging
import mmap
import os
import threading
from contextlib import suppress
from pathlib import Path

from histgen_lib.inference._connection import CallFailedError, Connection

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


log = logging.getLogger(__name__)

_SMALLEST_BYTES = 1 << 20
_IDLE = 4
"""Idle regions to keep; a tiler uses two."""


class RegionPool:
    """Regions that one server has mapped. For several threads.

    A region's name is removed as soon as the server has mapped it: no file stays if a process is killed.
    """

    def __init__(self, connection: Connection, *, enabled: bool) -> None:
        self._connection = connection
        self._enabled = enabled and available()
        self._lock = threading.Lock()
        self._idle: list[Region] = []
        self._retired: list[Region] = []

    def take(self, size_bytes: int) -> Region | None:
        """Return a region of at least that size, or None if the server cannot share memory."""
        if not self._enabled:
            return None
        self._release_retired()
        with self._lock:
            fitting = [region for region in self._idle if region.size_bytes >= size_bytes]
            if fitting:
                smallest = min(fitting, key=lambda region: region.size_bytes)
                self._idle.remove(smallest)
                return smallest
        return self._new(max(_SMALLEST_BYTES, 1 << (size_bytes - 1).bit_length()))

    def give_back(self, region: Region) -> None:
        """Keep a region that the server has finished with for the next request."""
        with self._lock:
            self._idle.append(region)
            spare = []
            if len(self._idle) > _IDLE:
                spare = [min(self._idle, key=lambda one: one.size_bytes)]
                self._idle.remove(spare[0])
            self._retired += spare

    def retire(self, region: Region) -> None:
        """Put aside a region that the server may still use; it is freed once the server has released it."""
        with self._lock:
            self._retired.append(region)

    def forget(self, region: Region) -> None:
        """Drop a region that the server no longer knows, and all others: the server was restarted."""
        with self._lock:
            lost = [region, *self._idle, *self._retired]
            self._idle, self._retired = [], []
        for one in lost:
            one.close()

    def close(self) -> None:
        """Free all regions."""
        with self._lock:
            self._retired += self._idle
            self._idle = []
        self._release_retired()

    def _new(self, size_bytes: int) -> Region | None:
        clear_orphans(TENSORS)
        try:
            region = Region(TENSORS, size_bytes)
        except OSError as error:
            self._give_up(f"there is no room for it ({error.strerror})")
            return None
        try:
            self._connection.register(region.name, region.key, size_bytes)
        except CallFailedError as failed:
            region.close()
            if failed.unanswered:
                raise
            self._give_up("the server cannot map it")
            return None
        region.unlink()
        return region

    def _give_up(self, why: str) -> None:
        self._enabled = False
        log.warning("Tensors go to the model server over the network, not through shared memory: %s.", why)

    def _release_retired(self) -> None:
        with self._lock:
            waiting, self._retired = self._retired, []
        while waiting:
            region = waiting.pop()
            try:
                self._connection.unregister(region.name)
            except CallFailedError as failed:
                self.retire(region)  # a request still uses it, or the server is unavailable
                if failed.unanswered:
                    break
            else:
                region.close()
        with self._lock:
            self._retired += waiting


def clear_server(connection: Connection) -> None:
    """Have a server here unmap the regions of processes that have ended. Raises CallFailedError."""
    for name in connection.regions():
        if is_orphan(name):
            try:
                connection.unregister(name)
            except CallFailedError:
                log.debug("A region of a process that has ended is still in use.")
