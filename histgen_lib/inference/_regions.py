"""Shared memory for requests: registered with the server once, then reused."""

from __future__ import annotations

import logging
import threading

from histgen_lib.inference._connection import CallFailedError, Connection
from histgen_lib.inference.shared_memory import TENSORS, Region, available, clear_orphans, is_orphan

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
                self.retire(region)  # a request still uses it, or the server is away
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
