"""How long to wait before trying again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True)
class Backoff:
    """Waits that double from `first_s` to `most_s`, each shortened by up to half at random.

    Chance keeps the workers of a lab from coming back to a server all in the same moment.
    """

    first_s: float = 0.5
    most_s: float = 30.0

    def delays(self, chance: Callable[[], float] = random.random) -> Iterator[float]:
        """Yield seconds, for ever."""
        for tries in count():
            yield min(self.most_s, self.first_s * 2.0 ** min(tries, 32)) * (1 - chance() / 2)
