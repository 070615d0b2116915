"""A cluster in small: worker processes stand for pods, an autoscaler says how many, a test moves the clock.

The autoscaler sees what KEDA sees: the group's offsets, asked of the broker. It decides by the numbers of a
ScaledObject; its time is the test's, so that minutes of a cluster take no minutes of a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from group_offsets import offsets_of
from harness import Stream
from processes import Service

from histgen_lib.capacity.autoscaler import Autoscaler

STEP_S = 15.0


@dataclass
class Cluster:
    """A Deployment of one service, whose pods are processes of `stream`.

    `pods`: those that run, the oldest first. `leaving`: those that were told to stop. A pod that is taken
    away gets SIGTERM; its grace period is the service's own setting, and `kill` is what follows it.
    """

    stream: Stream
    service: str
    autoscaler: Autoscaler[Any]
    settings: Mapping[str, str] = field(default_factory=dict)
    on_start: Callable[[Service], object] = lambda _: None
    pods: list[str] = field(default_factory=list)
    leaving: list[str] = field(default_factory=list)
    now_s: float = 0.0
    _names: count[int] = field(default_factory=count)

    def pass_time(self, seconds: float, *, broker_away: bool = False) -> list[int]:
        """Let time pass in steps; return how many pods there should be after each.

        `broker_away`: KEDA cannot ask the broker; the workers can.
        """
        wanted = []
        for _ in range(round(seconds / STEP_S)):
            self.now_s += STEP_S
            seen = None if broker_away else self.look()
            wanted.append(self.autoscaler.step(self.now_s, seen, len(self.pods)))
            self.scale(wanted[-1])
        return wanted

    def look(self) -> Any:
        """Return the group's offsets."""
        return offsets_of(self.stream.place.bus, "slide.scanned", f"histgen-{self.service}")

    def scale(self, replicas: int) -> None:
        """Start pods, or stop the youngest, until there are so many."""
        while len(self.pods) < replicas:
            label = f"{self.service}-{next(self._names)}"
            self.stream.start(label, **self.settings)
            self.pods.append(label)
            self.on_start(self.stream.services[label])
        while len(self.pods) > replicas:
            self.evict(self.pods[-1])

    def evict(self, *labels: str) -> None:
        """Send SIGTERM to pods, as when a node is drained or there are too many."""
        for label in labels:
            self.stream.services[label].ask_to_stop()
            self.pods.remove(label)
            self.leaving.append(label)

    def gone(self, label: str) -> int:
        """Wait until a pod that was told to stop has stopped; return its exit code."""
        self.leaving.remove(label)
        return self.stream.services.pop(label).left()

    def kill(self, label: str) -> None:
        """Send SIGKILL to a pod whose grace period is over."""
        self.leaving.remove(label)
        self.stream.services.pop(label).kill()

    def services(self) -> list[Service]:
        """Return the processes of the pods that run."""
        return [self.stream.services[label] for label in self.pods]
