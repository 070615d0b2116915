"""What KEDA's triggers make of what they see: a group's offsets in Kafka, or an answer of Prometheus.

After KEDA's source of 2026 (pkg/scalers/kafka_scaler.go, prometheus_scaler.go) and documentation
(keda.sh/docs, scalers "Apache Kafka" and "Prometheus").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

NONE_COMMITTED = -1
"""The committed offset of a partition in which the group never committed, or so long ago that it expired."""

Seen_contra = TypeVar("Seen_contra", contravariant=True)


class Offsets(NamedTuple):
    """What the broker knows of a partition: the group's committed offset, and where the partition ends."""

    committed: int
    end: int


class Reading(NamedTuple):
    """The metric that the autoscaler follows, and whether at least one replica must run."""

    metric: float
    active: bool


class Trigger(Protocol[Seen_contra]):
    """Turns what was seen into a metric of which each replica takes care of `target`."""

    @property
    def target(self) -> float:
        """How much of the metric one replica takes care of."""
        ...

    def read(self, seen: Sequence[Seen_contra]) -> Reading | None:
        """Return the metric; None if there is none, which counts as a failed query."""
        ...

    def forget(self) -> None:
        """Forget earlier readings, as KEDA does after a failed query."""
        ...


@dataclass(frozen=True)
class KafkaRule:
    """A `kafka` trigger's metadata, with KEDA's defaults. Field by field as in its documentation."""

    lag_threshold: int = 10
    activation_lag_threshold: int = 0
    offset_reset_policy: Literal["latest", "earliest"] = "latest"
    allow_idle_consumers: bool = False
    limit_to_partitions_with_lag: bool = False
    exclude_persistent_lag: bool = False
    scale_to_zero_on_invalid_offset: bool = False

    def __post_init__(self) -> None:
        """Refuse what KEDA refuses. Raises ValueError."""
        if self.lag_threshold <= 0 or self.activation_lag_threshold < 0:
            raise ValueError("lagThreshold must be positive, and activationLagThreshold not negative")
        if self.allow_idle_consumers and self.limit_to_partitions_with_lag:
            raise ValueError("allowIdleConsumers and limitToPartitionsWithLag exclude each other")


def partition_lag(rule: KafkaRule, found: Offsets) -> int:
    """Return a partition's lag.

    Where nothing is committed it is all up to the end ("earliest"), or 1 even if there are no records
    ("latest"). All up to the end: counted from offset 0, although the broker may have removed most of it.
    """
    if found.committed != NONE_COMMITTED:
        return found.end - found.committed
    if rule.scale_to_zero_on_invalid_offset:
        return 0
    return 1 if rule.offset_reset_policy == "latest" else found.end


def capped_lag(rule: KafkaRule, lags: Sequence[int]) -> int:
    """Return the total of `lags`, but no more than as many replicas as could each have a partition take."""
    total, most = sum(lags), len(lags)
    if rule.allow_idle_consumers:
        return total
    if rule.limit_to_partitions_with_lag:
        most = sum(lag > 0 for lag in lags)
    return most * rule.lag_threshold if total // rule.lag_threshold > most else total


class KafkaTrigger:
    """A `kafka` trigger over time; partitions are seen in the same order each time."""

    def __init__(self, rule: KafkaRule) -> None:
        self.rule = rule
        self._committed: dict[int, int] = {}

    @property
    def target(self) -> float:
        """The lag threshold."""
        return self.rule.lag_threshold

    def read(self, seen: Sequence[Offsets]) -> Reading:
        """Return the capped lag. Partitions excluded as persistent lag still keep the trigger active."""
        lags = [partition_lag(self.rule, found) for found in seen]
        counted = [0 if stuck else lag for stuck, lag in zip(self._stuck(seen), lags, strict=True)]
        return Reading(capped_lag(self.rule, counted), sum(lags) > self.rule.activation_lag_threshold)

    def _stuck(self, seen: Iterable[Offsets]) -> list[bool]:
        """Return for each partition whether its committed offset is the one of the query before."""
        stuck = []
        for number, found in enumerate(seen):
            valid = self.rule.exclude_persistent_lag and found.committed != NONE_COMMITTED
            stuck.append(valid and self._committed.get(number) == found.committed)
            if valid:
                self._committed[number] = found.committed
        return stuck

    def forget(self) -> None:
        """Forget the offsets of the query before."""
        self._committed.clear()


@dataclass(frozen=True)
class PrometheusRule:
    """A `prometheus` trigger's metadata, with KEDA's defaults.

    `ignore_null_values`: an answer without a sample counts as 0, not as a failure: a target that is no longer
    scraped looks as if it had nothing to do.
    """

    threshold: float
    activation_threshold: float = 0.0
    ignore_null_values: bool = True


class PrometheusTrigger:
    """A `prometheus` trigger: follows the value of a query, and sees the samples of the answer."""

    def __init__(self, rule: PrometheusRule) -> None:
        self.rule = rule

    @property
    def target(self) -> float:
        """The threshold."""
        return self.rule.threshold

    def read(self, seen: Sequence[float]) -> Reading | None:
        """Return the value of the only sample; None, which is a failure, if there are several."""
        if len(seen) > 1 or (not seen and not self.rule.ignore_null_values):
            return None
        value = sum(seen)
        return Reading(value, value > self.rule.activation_threshold)

    def forget(self) -> None:
        """Nothing is remembered."""
