"""The rules by which a Kubernetes HorizontalPodAutoscaler follows one external metric (AverageValue).

After Kubernetes' source (pkg/controller/podautoscaler/horizontal.go and replica_calculator.go) and
documentation (Horizontal Pod Autoscaling: algorithm details, configurable scaling behavior).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

SYNC_S = 15.0
"""How often the controller looks (its --horizontal-pod-autoscaler-sync-period)."""
TOLERANCE = 0.1
"""A metric this near to its target changes nothing (--horizontal-pod-autoscaler-tolerance)."""

_Select = Callable[..., int]


@dataclass(frozen=True)
class Policy:
    """The largest change in a period: so many pods, or so many percent of those at its start."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_s: float


@dataclass(frozen=True)
class Rules:
    """How fast one direction may go. `window_s`: for so long every recommendation must have agreed.

    `select`: which of the policies holds, the one that allows most or least; "Disabled": never this way.
    """

    window_s: float
    policies: tuple[Policy, ...]
    select: Literal["Max", "Min", "Disabled"] = "Max"


UP = Rules(0.0, (Policy("Pods", 4, 15.0), Policy("Percent", 100, 15.0)))
DOWN = Rules(300.0, (Policy("Percent", 100, 15.0),))
"""What Kubernetes uses where a manifest says nothing."""


def wanted(metric: float, target: float, replicas: int, tolerance: float = TOLERANCE) -> int:
    """Return how many replicas bring the metric to `target` for each; `replicas` if it is near enough."""
    if replicas and abs(1.0 - metric / (target * replicas)) <= tolerance:
        return replicas
    return math.ceil(metric / target)


class Hpa:
    """One autoscaler over time. `least`, `most`: replicas; `now_s` never goes back."""

    def __init__(
        self, least: int, most: int, *, up: Rules = UP, down: Rules = DOWN, tolerance: float = TOLERANCE
    ) -> None:
        self._least, self._most, self._up, self._down = least, most, up, down
        self._tolerance = tolerance
        self._wanted: list[tuple[float, int]] = []
        self._changes: list[tuple[float, int]] = []

    def step(self, now_s: float, metric: float | None, target: float, replicas: int) -> int:
        """Return how many replicas there should be. `metric` None: it could not be read, so all stays.

        With no replica at all the autoscaler is switched off: something else has to start the first one.
        """
        self._wanted = self._wanted or [(now_s, replicas)]
        if replicas == 0:
            return 0
        desired = min(max(replicas, self._least), self._most)
        if desired == replicas and metric is not None:
            proposal = wanted(metric, target, replicas, self._tolerance)
            desired = self._limited(now_s, self._stabilized(now_s, proposal, replicas), replicas)
        if desired != replicas:
            self._changes.append((now_s, desired - replicas))
        return desired

    def _stabilized(self, now_s: float, proposal: int, replicas: int) -> int:
        """Go up only as far as all proposals of the window for up, and down as all of that for down."""
        highest = min([proposal, *self._within(now_s - self._up.window_s)])
        lowest = max([proposal, *self._within(now_s - self._down.window_s)])
        oldest = now_s - max(self._up.window_s, self._down.window_s)
        self._wanted = [(at, count) for at, count in self._wanted if at >= oldest] + [(now_s, proposal)]
        return min(max(replicas, highest), lowest)

    def _within(self, since: float) -> list[int]:
        return [count for at, count in self._wanted if at > since]

    def _limited(self, now_s: float, desired: int, replicas: int) -> int:
        """Keep a change within the policies, and the count between least and most."""
        if desired > replicas:
            return min(desired, self._most, max(replicas, self._limit(now_s, replicas, self._up, +1)))
        if desired < replicas:
            return max(desired, self._least, min(replicas, self._limit(now_s, replicas, self._down, -1)))
        return replicas

    def _limit(self, now_s: float, replicas: int, rules: Rules, sign: int) -> int:
        """Return the furthest count that the rules of one direction allow now."""
        if rules.select == "Disabled":
            return replicas
        furthest = (rules.select == "Max") == (sign > 0)
        select: _Select = max if furthest else min
        return select(self._allowed(now_s, replicas, policy, sign) for policy in rules.policies)

    def _allowed(self, now_s: float, replicas: int, policy: Policy, sign: int) -> int:
        changed = sum(change for at, change in self._changes if at > now_s - policy.period_s)
        start = replicas - changed
        if policy.kind == "Pods":
            return start + sign * policy.value
        reached = start * (1 + sign * policy.value / 100)
        return math.ceil(reached) if sign > 0 else int(reached)
