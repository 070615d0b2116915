"""How long a process has not shown any life, as far as whoever asks was there to see."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 60.0
"""After so long without a sign of life a process is taken to be frozen: no busy machine takes as long."""
_AWAY, _LEAST_AWAY_S = 3, 8.0
"""Whoever asks again only after more than a third of the limit was held up itself, and starts anew."""
_STOPPED, _ENDING = frozenset("Tt"), frozenset("ZX")


class Silence:
    """Of one process, which is looked at several times within `limit_s`; 0 for one that may take for ever.

    A machine that slept, and an asker that was frozen with the process, do not make it look frozen: between
    two looks that are too far apart nobody knows what it did.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_s, self._clock = limit_s, clock
        self._since = self._looked_at = clock()

    def lasts(self, *, alive: bool) -> bool:
        """Note what a look has shown; True once there was no life in it for too long."""
        now = self._clock()
        away, self._looked_at = now - self._looked_at > max(self.limit_s / _AWAY, _LEAST_AWAY_S), now
        if alive or away:
            self._since = now
        return 0 < self.limit_s <= now - self._since


def is_stopped(pid: int | None) -> bool:
    """Say whether a process was stopped where it stands (SIGSTOP); False without /proc."""
    return _state(pid) in _STOPPED


def is_ending(pid: int | None) -> bool:
    """Say whether a process is dead, though it may hold its files yet; False without /proc."""
    return _state(pid) in _ENDING


def _state(pid: int | None) -> str:
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return told.rpartition(")")[2][1]
    except (OSError, IndexError):
        return ""
