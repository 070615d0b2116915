"""Values from files that somebody replaces while we run: certificates, tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from histgen_lib.errors import HistgenError
from histgen_lib.telemetry import get_logger

T = TypeVar("T")

LOOK_S, WARN_EVERY_S = 1.0, 60.0

_log = get_logger()


class Reread(Generic[T]):
    """What `read` makes of files, read again once they have changed; looks at most once a second.

    If they cannot be read then, as in the middle of a rotation, the earlier value stays in force, it tries
    again, and a warning is logged once a minute. Raises what `read` raises the first time. `clock`: monotonic
    seconds. For one thread.
    """

    def __init__(
        self, read: Callable[[], T], *paths: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._paths, self._clock = read, paths, clock
        self._looked_at, self._warned_at = clock(), float("-inf")
        self._state = self._look()
        self._value = read()

    def get(self) -> T:
        """Return the value in force."""
        now = self._clock()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            state = self._look()
            if state != self._state:
                self._renew(state, now)
        return self._value

    def _renew(self, state: list[tuple[int, ...]], now: float) -> None:
        try:
            self._value = self._read()
        except (HistgenError, OSError) as error:
            if now - self._warned_at >= WARN_EVERY_S:
                self._warned_at = now
                _log.warning("A changed file cannot be used; its earlier content counts.", exc_info=error)
            return
        self._state, self._warned_at = state, float("-inf")
        _log.info("A changed file was read again.", key=self._paths[0].name)

    def _look(self) -> list[tuple[int, ...]]:
        return [_state_of(path) for path in self._paths]


def _state_of(path: Path) -> tuple[int, ...]:
    try:
        state = path.stat()
    except OSError:
        return ()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
