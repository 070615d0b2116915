"""How long the stages of a job took, for the metrics of whoever runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stages:
    """Adds up seconds by stage. `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time until the end of the block for `stage`, also if it ends in an error."""
        start = self._clock()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + self._clock() - start

    def measures(self) -> dict[str, float]:
        """Return the seconds as a worker's measures."""
        return {f"stage:{name}": seconds for name, seconds in self.seconds.items()}
