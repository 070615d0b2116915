"""How KEDA and Kubernetes scale a Deployment together: activation, cooldown, fallback, and the HPA between.

KEDA starts the first replica and stops the last; between them, an HPA that KEDA made follows the metric.
After KEDA's source: pkg/scaling/executor/scale_scaledobjects.go, pkg/fallback/fallback.go. In one point it is
that of 2.18: from 2.19 on, the fallback also starts replicas where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from histgen_lib.capacity.hpa import SYNC_S, Hpa
from histgen_lib.capacity.scaled_object import Scaling, scaling_of
from histgen_lib.capacity.triggers import KafkaRule, KafkaTrigger, PrometheusTrigger, Reading, Trigger

Seen = TypeVar("Seen")


class Autoscaler(Generic[Seen]):
    """One ScaledObject over time: call `step` at least every few seconds, of whatever clock.

    `trigger`: a `KafkaTrigger`, which sees `Offsets` of each partition, or a `PrometheusTrigger`, which sees
    the samples of an answer.
    """

    def __init__(self, scaling: Scaling, trigger: Trigger[Seen]) -> None:
        self._scaling, self._trigger = scaling, trigger
        self._hpa = Hpa(max(1, scaling.least), scaling.most, up=scaling.up, down=scaling.down)
        self._poll_at = self._sync_at = float("-inf")
        self._active_at: float | None = None
        self._failures = 0

    def step(self, now_s: float, seen: Sequence[Seen] | None, replicas: int) -> int:
        """Return how many replicas there should be now. `seen` None: the source cannot be asked."""
        scaling = self._scaling
        if self._active_at is None:
            self._active_at = now_s - scaling.cooldown_s + scaling.initial_cooldown_s
        if now_s >= self._poll_at:
            self._poll_at = now_s + scaling.polling_s
            replicas = self._activated(now_s, self._read(seen), replicas)
        if now_s >= self._sync_at:
            self._sync_at = now_s + SYNC_S
            metric = self._metric(self._read(seen), replicas) if replicas else None
            replicas = self._hpa.step(now_s, metric, self._trigger.target, replicas)
        return replicas

    def _read(self, seen: Sequence[Seen] | None) -> Reading | None:
        reading = None if seen is None else self._trigger.read(seen)
        if reading is None:
            self._trigger.forget()
        return reading

    def _activated(self, now_s: float, reading: Reading | None, replicas: int) -> int:
        """Start the first replica, or stop the last ones, as KEDA's own loop does."""
        scaling = self._scaling
        if reading and reading.active:
            self._active_at = now_s
            return replicas or max(1, scaling.least)
        if reading is None and (scaling.fallback is None or scaling.fallback.replicas):
            return replicas  # 0, too: KEDA 2.19 and later would start the fallback's
        # KEDA comes here also with a metric that cannot be read, if the fallback is 0 replicas.
        if replicas and not scaling.least and now_s > (self._active_at or 0.0) + scaling.cooldown_s:
            return 0
        return max(replicas, scaling.least)

    def _metric(self, reading: Reading | None, replicas: int) -> float | None:
        """Return what KEDA answers the HPA: the metric, none, or one that leads to the fallback."""
        self._failures = 0 if reading else self._failures + 1
        if reading:
            return reading.metric
        fallback = self._scaling.fallback
        if fallback is None or self._failures <= fallback.failures:
            return None
        return self._trigger.target * fallback.count(replicas)


def autoscaler_of(manifest: Mapping[str, Any]) -> Autoscaler[Any]:
    """Return the autoscaler that a ScaledObject's manifest describes. Raises as `scaling_of`."""
    scaling = scaling_of(manifest)
    rule = scaling.rule
    return Autoscaler(scaling, KafkaTrigger(rule) if isinstance(rule, KafkaRule) else PrometheusTrigger(rule))
