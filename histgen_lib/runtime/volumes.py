"""How much room is left on the disks that a service writes to, as metrics; one that hangs, hangs nothing."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path

from histgen_lib.runtime.pulse import in_background
from histgen_lib.telemetry import metrics

LOOK_S, FRESH_S = 0.5, 1.0
"""How long whoever asks waits for a disk, and how long an answer counts."""

Room = tuple[float, float]
"""Bytes free for this account, and of the whole file system; NaN if unknown."""
_UNKNOWN: Room = (math.nan, math.nan)


class Volume:
    """A folder, which need not exist yet, and the room on its file system. Safe to use from several threads.

    `look`: how to look; `clock`: monotonic seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        look: Callable[[Path], Room] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._look, self._clock = path, look or room_at, clock
        self._lock = threading.Lock()
        self._looking: Future[Room] | None = None
        self._began_at = float("-inf")

    def room(self) -> Room:
        """Look, at most once a second, and wait for that only briefly; a look that hangs is not repeated.

        Nor is it waited for again: all who ask, together, wait no longer than `LOOK_S`.
        """
        with self._lock:
            done = self._looking is None or self._looking.done()
            if done and self._clock() - self._began_at >= FRESH_S:
                self._began_at, self._looking = self._clock(), in_background(lambda: self._look(self._path))
            looking, left_s = self._looking, self._began_at + LOOK_S - self._clock()
        assert looking is not None
        wait([looking], max(0.0, left_s))
        return looking.result() if looking.done() and not looking.exception() else _UNKNOWN


def show_volumes(folders: Mapping[str, Path]) -> None:
    """Show the room on these folders' disks in the metrics, by the name of each."""
    for name, path in folders.items():
        volume = Volume(path)
        metrics.DISK_FREE.labels(name).set_function(lambda volume=volume: volume.room()[0])  # type: ignore[misc]
        metrics.DISK_SIZE.labels(name).set_function(lambda volume=volume: volume.room()[1])  # type: ignore[misc]


def room_at(path: Path) -> Room:
    """Return the room where a folder is, or is going to be. Raises OSError."""
    for folder in (path, *path.absolute().parents):
        with suppress(FileNotFoundError):
            found = os.statvfs(folder)
            return float(found.f_bavail * found.f_frsize), float(found.f_blocks * found.f_frsize)
    return _UNKNOWN
