"""Keeps files that hang from holding up the gateway.

Nothing ends a thread that hangs inside the kernel, as on a network share that does not answer. So whatever
touches a slide's files runs in a thread of its own. A thread that makes no progress for too long is abandoned
and counted, and nobody looks at its place until it comes back.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TypeVar

from histgen_lib.errors import InvalidInputError
from histgen_lib.opening import PROGRESS
from histgen_lib.runtime.pulse import STEP_S, in_background

T = TypeVar("T")

MOST_STUCK, MOST_IN_FOLDER = 256, 4
"""Limits on abandoned threads, in all and in one folder; beyond them no file (of the folder) is looked at."""
_SLOT_S = 1.0
"""How long a reader may stand still and keep its slot."""


class _Progress:
    """When there was progress last. `at`: by `clock`, seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.at = clock()

    def __call__(self) -> None:
        self.at = self._clock()


class Watchdog:
    """Waits for looks at files as long as they make progress. Safe to use from several threads.

    `still_s`: how long opening or reading may stand still. `clock`: monotonic seconds.
    """

    def __init__(
        self,
        still_s: float = 20.0,
        most_stuck: int = MOST_STUCK,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._still_s, self._most, self._clock = still_s, most_stuck, clock
        self._stuck: Counter[Path] = Counter()
        self._lock = threading.Lock()

    @property
    def stuck(self) -> int:
        """Return how many threads are abandoned and have not come back."""
        return self._stuck.total()

    def look(
        self,
        path: Path,
        call: Callable[[], T],
        slots: threading.Semaphore | None = None,
        *,
        still_s: float | None = None,
    ) -> T:
        """Let `call` look at `path`; return its result or raise its exception.

        `slots`: the look takes one of them while it makes progress. `still_s`: a limit for this look alone.
        Raises InvalidInputError("slide-open-timeout") if the look stands still for too long, and at once
        while an earlier look at the same path, or several in its folder, are stuck.
        """
        if self._is_stuck(path):
            raise timed_out(path)
        limit_s = self._still_s if still_s is None else still_s
        slot = _Slot(slots)
        try:
            progress = _Progress(self._clock)
            future = in_background(lambda: _reporting(progress, call))
            while not wait([future], STEP_S).done:
                still_for_s = self._clock() - progress.at
                if still_for_s > _SLOT_S:
                    slot.release()
                if still_for_s > limit_s:
                    self._abandon(path, future)
                    raise timed_out(path)
        finally:
            slot.release()
        return future.result()

    def _is_stuck(self, path: Path) -> bool:
        with self._lock:
            in_folder = sum(count for stuck, count in self._stuck.items() if stuck.parent == path.parent)
            return path in self._stuck or in_folder >= MOST_IN_FOLDER or self.stuck >= self._most

    def _abandon(self, path: Path, future: Future[T]) -> None:
        """Count a thread as stuck until it comes back."""

        def back(_: Future[T]) -> None:
            with self._lock:
                self._stuck[path] -= 1
                self._stuck += Counter()  # drops zero counts

        with self._lock:
            self._stuck[path] += 1
        future.add_done_callback(back)


class _Slot:
    """One of several slots for readers; released once."""

    def __init__(self, slots: threading.Semaphore | None) -> None:
        self._slots = slots
        if slots:
            slots.acquire()

    def release(self) -> None:
        slots, self._slots = self._slots, None
        if slots:
            slots.release()


def _reporting(progress: Callable[[], None], call: Callable[[], T]) -> T:
    PROGRESS.set(progress)
    return call()


def timed_out(path: Path) -> InvalidInputError:
    """Say that a file cannot be opened or read in time."""
    return InvalidInputError(
        "slide-open-timeout",
        f"{path.name} cannot be opened or read in time.",
        hint="Check that its share or disk answers and that no other program holds the file, then send it "
        "again. The gateway retries slides in the watched folder by itself.",
    )
