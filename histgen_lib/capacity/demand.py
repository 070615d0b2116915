"""What comes in: how many slides a day, how large, and at what hours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histgen_lib.bus._sharing import partition_of
from histgen_lib.errors import InvalidInputError

DAY_S, HOUR_S = 86_400.0, 3_600.0
PROFILES: dict[str, tuple[float, ...]] = {
    "flat": (1.0,) * 24,
    "working-hours": (0, 0, 0, 0, 0, 0, 1, 4, 8, 10, 10, 10, 7, 8, 10, 9, 7, 4, 2, 1, 0, 0, 0, 0),
    "night": (3, 3, 3, 2, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 8, 40, 40, 10, 4, 3, 3),
}
"""Weights of the hours from midnight. "working-hours": scanners are fed from 6 to 20 o'clock. "night": by day
a little, and in the evening everything that scanners were loaded with for the night."""


@dataclass(frozen=True)
class Demand:
    """`tiles`: of a slide, on average; `spread`: their coefficient of variation. `hours`: 24 weights."""

    slides_per_day: int
    tiles: float
    spread: float = 0.6
    hours: tuple[float, ...] = PROFILES["working-hours"]

    @property
    def peak(self) -> float:
        """How many times as many slides as on average the busiest hour has."""
        return max(self.hours) * 24 / sum(self.hours)

    @property
    def peak_per_s(self) -> float:
        """Slides a second in the busiest hour."""
        return self.slides_per_day / DAY_S * self.peak

    def arrivals(self, seed: int) -> NDArray[np.float64]:
        """Draw when slides are announced, in seconds from midnight: at random within each hour's share."""
        chance = np.random.default_rng([seed, 1])
        shares = np.asarray(self.hours, float) / sum(self.hours)
        hours = np.repeat(np.arange(24), chance.multinomial(self.slides_per_day, shares))
        return np.sort((hours + chance.random(self.slides_per_day)) * HOUR_S)

    def tiles_of(self, seed: int) -> NDArray[np.float64]:
        """Draw each slide's tiles: log-normal, as sizes that are products of many things are."""
        chance = np.random.default_rng([seed, 2])
        return self.tiles * noise(chance, self.spread, self.slides_per_day)


def noise(chance: np.random.Generator, spread: float, count: int) -> NDArray[np.float64]:
    """Draw factors with a mean of 1 and a coefficient of variation of `spread`."""
    sigma = np.sqrt(np.log1p(spread**2))
    return np.exp(chance.normal(-(sigma**2) / 2, sigma, count))


def hours_of(profile: str, peak: float | None) -> tuple[float, ...]:
    """Return the weights of a profile, or of a day whose two busiest hours have `peak` times the average.

    Raises InvalidInputError("plan-profile").
    """
    if peak is not None:
        if not 1 <= peak <= 12:
            raise InvalidInputError(
                "plan-profile",
                f"Two hours of a day cannot have {peak:g} times the average.",
                hint="Give a factor from 1 to 12.",
            )
        rest = (24 - 2 * peak) / 22
        return (rest,) * 10 + (peak, peak) + (rest,) * 12
    if profile not in PROFILES:
        raise InvalidInputError(
            "plan-profile",
            f"There is no profile {profile!r}.",
            hint=f"Take one of {', '.join(PROFILES)}, or state --peak.",
        )
    return PROFILES[profile]


def partitions_of(slides: int, partitions: int) -> NDArray[np.int64]:
    """Return the partition of each slide's record, by the bus's own hash of its name."""
    return np.fromiter((partition_of(f"slide-{n}", partitions) for n in range(slides)), np.int64, slides)
