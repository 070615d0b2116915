"""Signs of life of a process: how long it has shown none, and whether the system stopped or ended it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 60.0
"""A process without a sign of life for so long is taken to be frozen: no busy machine takes as long."""
_AWAY, _LEAST_AWAY_S = 3, 8.0
"""Looks further apart than a third of the limit mean that the observer was held up itself: it starts anew."""
_STOPPED, _ENDING = frozenset("Tt"), frozenset("ZX")


class Silence:
    """How long one process has been silent. It needs several looks within `limit_s`; 0 means no limit.

    A machine that slept, or an observer that was frozen together with the process, does not make the process
    look frozen: nobody knows what it did between two looks that are too far apart.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_s, self._clock = limit_s, clock
        self._since = self._looked_at = clock()

    def lasts(self, *, alive: bool) -> bool:
        """Record a look; return True once the process has been silent for too long."""
        now = self._clock()
        away, self._looked_at = now - self._looked_at > max(self.limit_s / _AWAY, _LEAST_AWAY_S), now
        if alive or away:
            self._since = now
        return 0 < self.limit_s <= now - self._since


def is_stopped(pid: int | None) -> bool:
    """Return whether a process is stopped (SIGSTOP); False without /proc."""
    return _state(pid) in _STOPPED


def is_ending(pid: int | None) -> bool:
    """Return whether a process is dead, even if its files are not closed yet; False without /proc."""
    return _state(pid) in _ENDING


def _state(pid: int | None) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return stat.rpartition(")")[2][1]
    except (OSError, IndexError):
        return ""
