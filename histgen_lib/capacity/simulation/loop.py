"""The event loop: simulated time jumps from one event to the next."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Any


class Loop:
    """Calls what was scheduled, in order of time, and in order of scheduling at equal times.

    So the same schedule always runs in the same order. `now`: simulated seconds.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._scheduled = 0
        self._stopped = False

    def at(self, time_s: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call at a time, or at once if that is past."""
        self._scheduled += 1
        heappush(self._heap, (max(time_s, self.now), self._scheduled, call, arguments))

    def after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call in so many seconds."""
        self.at(self.now + seconds, call, *arguments)

    def stop(self) -> None:
        """Return from `run` after the event that is being handled."""
        self._stopped = True

    def run(self, until_s: float = inf) -> None:
        """Handle events until none is left, `stop` is called, or the time is reached."""
        heap, self._stopped = self._heap, False
        while heap and not self._stopped and heap[0][0] <= until_s:
            self.now, _, call, arguments = heappop(heap)
            self.events += 1
            call(*arguments)
