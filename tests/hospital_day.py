"""When slides come in over a day: a quiet night, a rise to working hours, scanners' batches, and a burst."""

from __future__ import annotations

import random

DAY_S = 24 * 3600.0
HOURLY = [1] * 6 + [3, 8] + [14] * 9 + [8, 4] + [1] * 5
"""Slides that come in singly in each hour."""
BATCHES = {9.0: 24, 13.0: 36, 18.5: 40}
"""Slides that a scanner hands over at once, by hour."""
BURST_AT, BURST, BURST_S = 15.5, 60, 300.0
"""An archive is submitted."""


def arrivals(seed: int, *, scale: float = 1.0) -> list[float]:
    """Return the seconds since midnight at which slides come in, in order. `scale`: of their number."""
    chance = random.Random(seed)
    times: list[float] = []
    for hour, slides in enumerate(HOURLY):
        times += [3600 * (hour + chance.random()) for _ in range(round(slides * scale))]
    for hour, slides in BATCHES.items():
        times += [3600 * hour + chance.uniform(0, 60) for _ in range(round(slides * scale))]
    times += [3600 * BURST_AT + chance.uniform(0, BURST_S) for _ in range(round(BURST * scale))]
    return sorted(times)
