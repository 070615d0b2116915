"""The pods of a service: they take time to start, are scaled, replaced by an update, and lost with a node."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from histgen_lib.capacity.simulation.loop import Loop
from histgen_lib.capacity.simulation.station import Station


class Policy(Protocol):
    """Decides how many replicas there should be; it may remember what it was told before."""

    def desired(self, now: float, lag: Sequence[int], replicas: int, ready: int) -> int:
        """Return the number of replicas for the lag of each partition at `now` (s), 0 or more."""
        ...


@dataclass(frozen=True)
class Pods:
    """How the pods of a service live.

    `start_s`: from the decision to start one until it takes records: scheduling, image, engine, model.
    `lost_s`: how long until a pod of a lost node is replaced. `surge`: the share of pods that an update starts
    in addition before it stops as many old ones. `every_s`: how often the policy is asked.
    """

    replicas: int
    least: int = 0
    most: int = 1_000_000
    start_s: float = 60.0
    lost_s: float = 340.0
    surge: float = 0.25
    policy: Policy | None = None
    every_s: float = 15.0


class _Pod:
    __slots__ = ("born", "name", "ready", "stopping", "updated")

    def __init__(self, name: str, born: float, updated: Callable[[], None] | None) -> None:
        self.name, self.born, self.updated = name, born, updated
        self.ready = self.stopping = False


class Fleet:
    """The pods of one station. `pod_s`: seconds that pods have existed, all together."""

    def __init__(self, loop: Loop, station: Station, pods: Pods) -> None:
        self._loop, self.station, self._rules = loop, station, pods
        self._pods: dict[str, _Pod] = {}
        self._born = self._lost = 0
        self._old: list[str] = []
        self._pod_s, self._counted_at = 0.0, 0.0
        self.size = pods.replicas
        for _ in range(pods.replicas):
            self._start(0.0)
        if pods.policy is not None:
            loop.after(pods.every_s, self._ask)

    @property
    def ready(self) -> int:
        """How many pods take records."""
        return sum(pod.ready and not pod.stopping for pod in self._pods.values())

    @property
    def pod_s(self) -> float:
        """Pod seconds so far, from the start of each pod until it is gone."""
        self._count()
        return self._pod_s

    def scale(self, size: int) -> None:
        """Start pods, or stop the youngest; those that are not ready yet go first."""
        self.size = max(self._rules.least, min(self._rules.most, size))
        self._settle()

    def lose(self, count: int) -> None:
        """Lose pods with their node, without a word: `count` of those that are ready, spread over the fleet."""
        ready = [pod for pod in self._pods.values() if pod.ready and not pod.stopping]
        step = max(1, len(ready) // max(1, count))
        for pod in ready[::step][:count]:
            self._remove(pod.name)
            self.station.kill(pod.name)
            self._lost += 1
            self._loop.after(self._rules.lost_s, self._found)

    def update(self) -> None:
        """Replace every pod: start some, and stop as many old ones once those are ready."""
        self._old = [pod.name for pod in self._pods.values() if not pod.stopping]
        for _ in range(max(1, math.ceil(self._rules.surge * len(self._old)))):
            self._replace_one()

    def _replace_one(self) -> None:
        while self._old and self._old[0] not in self._pods:
            self._old.pop(0)
        if self._old:
            old = self._old.pop(0)
            self._start(self._rules.start_s, lambda: self._replaced(old))

    def _replaced(self, old: str) -> None:
        if old in self._pods:
            self._stop(self._pods[old])
        self._replace_one()

    def _found(self) -> None:
        """Notice that a pod is lost."""
        self._lost -= 1
        self._settle()

    def _settle(self) -> None:
        """Have as many pods as there should be; what is lost and not noticed still counts."""
        here = [pod for pod in self._pods.values() if not pod.stopping]
        updating = sum(pod.updated is not None and not pod.ready for pod in here)
        missing = self.size - (len(here) - updating) - self._lost
        for _ in range(missing):
            self._start(self._rules.start_s)
        for pod in sorted(here, key=lambda pod: (pod.ready, -pod.born))[: max(0, -missing)]:
            self._stop(pod)

    def _start(self, start_s: float, updated: Callable[[], None] | None = None) -> None:
        self._count()
        self._born += 1
        pod = _Pod(f"{self.station.name}-{self._born:05d}", self._born, updated)
        self._pods[pod.name] = pod
        self._loop.after(start_s, self._started, pod)

    def _started(self, pod: _Pod) -> None:
        if pod.stopping or pod.name not in self._pods:
            return
        pod.ready = True
        self.station.join(pod.name, lambda: self._remove(pod.name))
        if pod.updated is not None:
            pod.updated()

    def _stop(self, pod: _Pod) -> None:
        pod.stopping = True
        if pod.ready:
            self.station.stop(pod.name)
        else:
            self._remove(pod.name)
            if pod.updated is not None:
                self._replace_one()

    def _remove(self, name: str) -> None:
        self._count()
        self._pods.pop(name, None)

    def _count(self) -> None:
        self._pod_s += len(self._pods) * (self._loop.now - self._counted_at)
        self._counted_at = self._loop.now

    def _ask(self) -> None:
        policy = self._rules.policy
        assert policy is not None
        self.scale(policy.desired(self._loop.now, self.station.lag, self.size, self.ready))
        self._loop.after(self._rules.every_s, self._ask)
