"""The pods of a service: they take time to start, are scaled, replaced by an update, and lost with a node."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from histgen_lib.capacity.autoscaler import Autoscaler
from histgen_lib.capacity.scaled_object import Scaling
from histgen_lib.capacity.simulation.loop import Loop
from histgen_lib.capacity.simulation.station import Station
from histgen_lib.capacity.triggers import KafkaRule, KafkaTrigger, Offsets

ASK_S = 15.0
"""How often the autoscaler is stepped: KEDA's pace in the chart, and the HPA's own."""


@dataclass(frozen=True)
class Pods:
    """How the pods of a service live.

    `start_s`: from the decision to start one until it takes records: scheduling, image, engine, model.
    `lost_s`: how long until a lost node is noticed and its pods are replaced. `surge`: the share of pods that
    an update starts in addition before it stops as many old ones. `scaling`: the numbers of their
    ScaledObject; None for a fixed number of pods.
    """

    replicas: int
    start_s: float = 60.0
    lost_s: float = 340.0
    surge: float = 0.25
    scaling: Scaling | None = None


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
        self._autoscaler = _autoscaler(pods.scaling)
        rule = pods.scaling.rule if pods.scaling else None
        self._only_lagging = isinstance(rule, KafkaRule) and (
            rule.limit_to_partitions_with_lag and not rule.exclude_persistent_lag
        )  # then partitions without lag count for nothing, and a day has no time for them
        if self._autoscaler is not None:
            loop.after(ASK_S, self._ask)

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
        self.size = size
        self._settle()

    def lose(self, count: int) -> None:
        """Lose `count` ready pods with their node, without a word; they are spread over the fleet."""
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
        while self._old:
            old = self._pods.get(self._old.pop(0))
            if old is not None and not old.stopping:
                self._start(self._rules.start_s, partial(self._replaced, old))
                return

    def _replaced(self, old: _Pod) -> None:
        """Stop the old pod; if it has gone by itself meanwhile, the new one may be one too many."""
        if old.name in self._pods and not old.stopping:
            self._stop(old)
        else:
            self._settle()
        self._replace_one()

    def _found(self) -> None:
        """Notice that a pod is lost."""
        self._lost -= 1
        self._settle()

    def _settle(self) -> None:
        """Have as many pods as there should be; what is lost and not noticed still counts.

        Pods that an update has begun to start stand beside those that they replace: they count for nothing.
        """
        here = [pod for pod in self._pods.values() if not pod.stopping and (pod.ready or pod.updated is None)]
        missing = self.size - len(here) - self._lost
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

    def _remove(self, name: str) -> None:
        self._count()
        self._pods.pop(name, None)

    def _count(self) -> None:
        self._pod_s += len(self._pods) * (self._loop.now - self._counted_at)
        self._counted_at = self._loop.now

    def _ask(self) -> None:
        assert self._autoscaler is not None
        seen = [Offsets(0, lag) for lag in self.station.lag if lag or not self._only_lagging]
        wanted = self._autoscaler.step(self._loop.now, seen, self.size)
        if wanted != self.size:
            self.scale(wanted)
        self._loop.after(ASK_S, self._ask)


def _autoscaler(scaling: Scaling | None) -> Autoscaler[Offsets] | None:
    if scaling is None:
        return None
    assert isinstance(scaling.rule, KafkaRule)
    return Autoscaler(scaling, KafkaTrigger(scaling.rule))
