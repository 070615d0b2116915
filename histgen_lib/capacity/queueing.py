"""Waiting in closed form: what a plan is sized with, and what the simulation is held to.

A record's partition is decided by its key, and its worker by the partition: each worker has a queue of its
own, and none helps another. So a group of workers is many queues with one server each (M/G/1), not one queue
with many (M/M/c). Formulas as in L. Kleinrock, Queueing Systems I (1975).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray


def mg1_wait_s(per_s: float, mean_s: float, spread: float) -> float:
    """Return the mean wait in an M/G/1 queue (Pollaczek and Khinchine). `spread`: of the service, σ/mean."""
    load = per_s * mean_s
    return inf if load >= 1 else load * mean_s * (1 + spread**2) / (2 * (1 - load))


def erlang_c(servers: int, offered: float) -> float:
    """Return the probability that an arrival waits in an M/M/c queue. `offered`: mean busy servers."""
    if offered >= servers:
        return 1.0
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


def mmc_wait_s(per_s: float, mean_s: float, servers: int) -> float:
    """Return the mean wait in an M/M/c queue."""
    offered = per_s * mean_s
    return inf if offered >= servers else erlang_c(servers, offered) * mean_s / (servers - offered)


def crowding(capacity: float, offered: float) -> float:
    """Return how many times as long jobs take on a server that they share as they would alone.

    `capacity`: how many jobs it can do at full speed at once, 1 or more, and no whole number; `offered`: how
    many there would be if all had full speed. For whole numbers this is M/M/c's time in the system, in units
    of a service: with n jobs, both serve min(n, capacity) of them.
    """
    if offered <= 0:
        return 1.0
    if offered >= capacity:
        return inf
    full = int(capacity)
    weights = [1.0]  # of 0 … `full` jobs, scaled so that the last is not astronomic
    for count in range(1, full + 1):
        weights.append(weights[-1] * offered / count)
        if weights[-1] > 1e200:
            weights = [weight / 1e200 for weight in weights]
    ratio = offered / capacity
    tail = weights[-1] * ratio / (1 - ratio)
    jobs = sum(count * weight for count, weight in enumerate(weights))
    jobs += weights[-1] * ratio * (full / (1 - ratio) + 1 / (1 - ratio) ** 2)
    return jobs / (sum(weights) + tail) / offered


@dataclass(frozen=True)
class Group:
    """A service's workers over its partitions. `mean_s`, `spread`: of a job."""

    workers: int
    partitions: int
    mean_s: float
    spread: float

    def shares(self) -> list[tuple[float, float]]:
        """Return how records fall to workers: the part of them that goes to workers with so much of all.

        Partitions are dealt out evenly but for one: some workers have one more than others.
        """
        few, more = divmod(self.partitions, self.workers)
        found = [
            ((few + 1) * more / self.partitions, (few + 1) / self.partitions),
            (few * (self.workers - more) / self.partitions, few / self.partitions),
        ]
        return [(part, share) for part, share in found if part > 0]

    def load(self, per_s: float) -> float:
        """Return how busy the busiest worker is: 1 or more is too much."""
        return max(share for _, share in self.shares()) * per_s * self.mean_s

    def wait_s(self, per_s: float) -> float:
        """Return the mean wait."""
        return sum(
            part * mg1_wait_s(share * per_s, self.mean_s, self.spread) for part, share in self.shares()
        )

    def draw_waits(self, per_s: float, count: int, chance: np.random.Generator) -> NDArray[np.float64]:
        """Draw waits: none with probability 1 − load, else exponential with the right mean (M/M/1's form)."""
        shares = self.shares()
        kind = chance.choice(len(shares), size=count, p=[part for part, _ in shares])
        loads = np.array([share * per_s * self.mean_s for _, share in shares])
        means = np.array([mg1_wait_s(share * per_s, self.mean_s, self.spread) for _, share in shares])
        waits = chance.exponential(1.0, count) * (means / np.maximum(loads, 1e-12))[kind]
        return np.where(chance.random(count) < loads[kind], waits, 0.0)


def draft_seconds(
    groups: Sequence[Group], per_s: float, jobs: Sequence[NDArray[np.float64]], seed: int = 0
) -> NDArray[np.float64]:
    """Draw the seconds from scan to draft at a steady `per_s`; `jobs`: each group's seconds, by slide."""
    chance = np.random.default_rng([seed, 3])
    parts = [
        group.draw_waits(per_s, len(seconds), chance) + seconds
        for group, seconds in zip(groups, jobs, strict=True)
    ]
    return np.asarray(np.sum(parts, axis=0))
