"""A topic, its group and an autoscaler in simulated time: slides come in, pods start, work and leave.

Partitions are shared out by the code that real members use. A pod that is told to leave finishes its slide.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from histgen_lib.bus._sharing import holders_of
from histgen_lib.capacity.autoscaler import Autoscaler
from histgen_lib.capacity.hpa import TOLERANCE
from histgen_lib.capacity.triggers import Offsets

STEP_S = 15.0


class Moment(NamedTuple):
    """What was at a time: pods that should run, slides that wait or run, and partitions that have any."""

    at_s: float
    replicas: int
    lag: int
    with_lag: int


@dataclass
class Pod:
    """`ready_at`: when it joins the group. `done_at`: when the slide in hand, of `partition`, is done."""

    ready_at: float
    partition: int | None = None
    done_at: float = 0.0
    leaving: bool = False


@dataclass
class Day:
    """`arrivals`: seconds, in order. `job_s`: how long a slide takes, on average. `outages`: (from, to)."""

    autoscaler: Autoscaler[Any]
    arrivals: Sequence[float]
    partitions: int
    job_s: float = 240.0
    start_s: float = 20.0
    seed: int = 1
    outages: Collection[tuple[float, float]] = ()
    done: int = 0
    _pods: dict[str, Pod] = field(default_factory=dict)
    _started: int = 0

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._waiting: list[deque[float]] = [deque() for _ in range(self.partitions)]
        self._offsets = [Offsets(0, 0)] * self.partitions
        self._holders: dict[int, str] = {}
        self._members: frozenset[str] = frozenset()

    def run(self, until_s: float) -> list[Moment]:
        """Return every step of the time."""
        moments, coming, now_s, replicas = list[Moment](), deque(self.arrivals), 0.0, 0
        while now_s < until_s:
            while coming and coming[0] <= now_s:
                coming.popleft()
                self._arrive()
            self._work(now_s)
            away = any(start <= now_s < end for start, end in self.outages)
            replicas = self.autoscaler.step(now_s, None if away else self._offsets, replicas)
            self._scale(now_s, replicas)
            moments.append(_moment(now_s, replicas, self._offsets))
            now_s += STEP_S
        return moments

    def _arrive(self) -> None:
        partition = self._chance.randrange(self.partitions)
        committed, end = self._offsets[partition]
        self._offsets[partition] = Offsets(committed, end + 1)
        self._waiting[partition].append(self._chance.uniform(0.5, 1.5) * self.job_s)

    def _work(self, now_s: float) -> None:
        for name, pod in list(self._pods.items()):
            if pod.partition is not None and pod.done_at <= now_s:
                committed, end = self._offsets[pod.partition]
                self._offsets[pod.partition] = Offsets(committed + 1, end)
                pod.partition, self.done = None, self.done + 1
            if pod.leaving and pod.partition is None:
                del self._pods[name]
        self._share(now_s)
        for name, pod in self._pods.items():
            mine = [part for part, holder in self._holders.items() if holder == name and self._waiting[part]]
            if pod.partition is None and mine:
                pod.partition = min(mine, key=lambda part: self._offsets[part].committed)
                pod.done_at = now_s + self._waiting[pod.partition].popleft()

    def _share(self, now_s: float) -> None:
        members = frozenset(name for name, pod in self._pods.items() if pod.ready_at <= now_s)
        if members != self._members:
            busy = {pod.partition for pod in self._pods.values()}
            claims = [(part, self._holders.get(part), part in busy) for part in range(self.partitions)]
            self._members, self._holders = members, holders_of(claims, members)

    def _scale(self, now_s: float, replicas: int) -> None:
        staying = [pod for pod in self._pods.values() if not pod.leaving]
        for pod in staying[replicas:]:
            pod.leaving = True
        for _ in range(replicas - len(staying)):
            self._started += 1
            self._pods[f"pod-{self._started}"] = Pod(now_s + self.start_s)


def replayed(autoscaler: Autoscaler[Any], rows: Iterable[Mapping[str, str]], until_s: float) -> list[Moment]:
    """Return every step of a recorded day, in which the group went on whatever the autoscaler said."""
    coming, offsets = deque(rows), dict[int, Offsets]()
    moments, replicas, now_s = list[Moment](), 0, 0.0
    while now_s < until_s:
        while coming and float(coming[0]["seconds"]) <= now_s:
            row = coming.popleft()
            offsets[int(row["partition"])] = Offsets(int(row["committed"]), int(row["end"]))
        seen = [offsets[part] for part in sorted(offsets)]
        replicas = autoscaler.step(now_s, seen, replicas)
        moments.append(_moment(now_s, replicas, seen))
        now_s += STEP_S
    return moments


def _moment(now_s: float, replicas: int, seen: Sequence[Offsets]) -> Moment:
    lags = [found.end - found.committed for found in seen]
    return Moment(now_s, replicas, sum(lags), sum(lag > 0 for lag in lags))


def turns(moments: Sequence[Moment]) -> int:
    """Count how often the number of pods turned from growing to shrinking or back."""
    grew = [change > 0 for _, change in changes(moments)]
    return sum(before != after for before, after in pairwise(grew))


def changes(moments: Sequence[Moment]) -> list[tuple[float, int]]:
    """Return when the number of pods changed, and by how much."""
    steps = [(to.at_s, to.replicas - of.replicas) for of, to in pairwise(moments)]
    return [(at_s, change) for at_s, change in steps if change]


def too_few(moments: Sequence[Moment], within_s: float, most: int) -> list[Moment]:
    """Return the moments with fewer pods than partitions that had work for `within_s` (and tolerance)."""
    steps = round(within_s / STEP_S)
    windows = (moments[at - steps : at + 1] for at in range(steps, len(moments)))
    return [
        window[-1]
        for window in windows
        if window[-1].replicas < (1 - TOLERANCE) * min(most, *(moment.with_lag for moment in window))
    ]
