"""Looks at files where whoever waits can go on without: a share that hangs holds whoever looks at it.

Nothing ends a thread that the kernel holds. So whatever touches a slide's files runs in a thread of its own;
one that stands still too long is left behind and counted, and nobody looks there until it comes back.
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
from histgen_lib.runtime.pulse import STEP_S, aside

T = TypeVar("T")

MOST_STUCK, MOST_OF_FOLDER = 256, 4
"""Threads that may be left behind, in all and in one folder; with more, no file (of it) is looked at."""
_SLOT_S = 1.0
"""How long a reader may stand still and keep others from reading."""


class Beat:
    """Knows when something was last done. `at`: monotonic seconds."""

    def __init__(self) -> None:
        self.at = time.monotonic()

    def __call__(self) -> None:
        """Note that something was done."""
        self.at = time.monotonic()


class Patience:
    """Waits for looks at files as long as they go on. Safe to use from several threads.

    `still_s`: how long opening or reading may stand still.
    """

    def __init__(self, still_s: float = 20.0, most_stuck: int = MOST_STUCK) -> None:
        self._still_s, self._most = still_s, most_stuck
        self._stuck: Counter[Path] = Counter()
        self._lock = threading.Lock()

    @property
    def stuck(self) -> int:
        """Count the threads that were left behind and have not come back."""
        return self._stuck.total()

    def look(
        self,
        path: Path,
        call: Callable[[], T],
        slots: threading.Semaphore | None = None,
        *,
        still_s: float | None = None,
    ) -> T:
        """Have `call` look at `path`, and return or raise what it does.

        `slots`: one of them is taken while it goes on. `still_s`: for this look. Raises
        InvalidInputError("slide-open-timeout") if it stands still, and at once while an earlier look at the
        place does, or several in its folder.
        """
        if self._is_stuck(path):
            raise stands_still(path)
        beat = Beat()
        held = _Slot(slots)
        try:
            beat()
            future = aside(lambda: _beating(beat, call))
            while not wait([future], STEP_S).done:
                still = time.monotonic() - beat.at
                if still > _SLOT_S:
                    held.release()
                if still > (self._still_s if still_s is None else still_s):
                    self._leave(path, future)
                    raise stands_still(path)
        finally:
            held.release()
        return future.result()

    def _is_stuck(self, path: Path) -> bool:
        with self._lock:
            beside = sum(count for place, count in self._stuck.items() if place.parent == path.parent)
            return path in self._stuck or beside >= MOST_OF_FOLDER or self.stuck >= self._most

    def _leave(self, path: Path, future: Future[T]) -> None:
        """Leave a thread behind until it comes back."""

        def back(_: Future[T]) -> None:
            with self._lock:
                self._stuck[path] -= 1
                self._stuck += Counter()  # forgets what is at nought

        with self._lock:
            self._stuck[path] += 1
        future.add_done_callback(back)


class _Slot:
    """One of several that may read at a time; given back once."""

    def __init__(self, slots: threading.Semaphore | None) -> None:
        self._slots = slots
        if slots:
            slots.acquire()

    def release(self) -> None:
        slots, self._slots = self._slots, None
        if slots:
            slots.release()


def _beating(beat: Beat, call: Callable[[], T]) -> T:
    PROGRESS.set(beat)
    return call()


def stands_still(path: Path) -> InvalidInputError:
    """Say that a file cannot be opened or read in time."""
    return InvalidInputError(
        "slide-open-timeout",
        f"{path.name} cannot be opened or read in time.",
        hint="Check that its share or disk answers and that no other program holds it, then send it again; "
        "a slide in the watched folder is tried again by itself.",
    )
