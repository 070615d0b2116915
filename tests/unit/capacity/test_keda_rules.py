"""KEDA's rules: what its triggers make of what they see, and when it starts and stops the last replica.

The cases are those of KEDA's documentation (scalers "Apache Kafka" and "Prometheus", "ScaledObject
specification") and of its source where the documentation is silent.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from scaled_object import PARTITIONS, tiler_object

from histgen_lib.capacity.autoscaler import Autoscaler, autoscaler_of
from histgen_lib.capacity.scaled_object import Fallback, Scaling, scaling_of
from histgen_lib.capacity.triggers import (
    KafkaRule,
    KafkaTrigger,
    Offsets,
    PrometheusRule,
    PrometheusTrigger,
    partition_lag,
)

EMPTY, UNREAD, OLD = Offsets(-1, 0), Offsets(-1, 3), Offsets(-1, 900)
"""Nothing committed: no record yet, three records, and many of which the broker may have removed most."""


@pytest.mark.parametrize(
    ("found", "policy", "to_zero", "lag"),
    [
        (Offsets(4, 10), "latest", False, 6),
        (Offsets(10, 10), "earliest", False, 0),
        (EMPTY, "latest", False, 1),
        (UNREAD, "latest", False, 1),
        (UNREAD, "latest", True, 0),
        (EMPTY, "earliest", False, 0),
        (UNREAD, "earliest", False, 3),
        (OLD, "earliest", False, 900),
        (UNREAD, "earliest", True, 0),
    ],
)
def test_lag_counts_from_the_committed_offset_and_without_one_by_the_reset_policy(
    found, policy, to_zero, lag
):
    rule = KafkaRule(offset_reset_policy=policy, scale_to_zero_on_invalid_offset=to_zero)
    assert partition_lag(rule, found) == lag


@pytest.mark.parametrize(
    ("lags", "rule", "metric"),
    [
        ([30, 0, 0, 0], KafkaRule(lag_threshold=10), 30),
        ([100, 0, 0, 0], KafkaRule(lag_threshold=10), 40),  # 10 replicas for 4 partitions: 4
        ([100, 0, 0, 0], KafkaRule(lag_threshold=10, allow_idle_consumers=True), 100),
        ([100, 0, 0, 0], KafkaRule(lag_threshold=10, limit_to_partitions_with_lag=True), 10),
        ([100, 1, 0, 0], KafkaRule(lag_threshold=10, limit_to_partitions_with_lag=True), 20),
        (
            [15, 0, 0, 0],
            KafkaRule(lag_threshold=10, limit_to_partitions_with_lag=True),
            15,
        ),  # 1.5: rounded down
        ([9, 9, 9, 9], KafkaRule(lag_threshold=1, limit_to_partitions_with_lag=True), 4),
        ([1, 0, 1, 0], KafkaRule(lag_threshold=1, limit_to_partitions_with_lag=True), 2),
        ([0, 0, 0, 0], KafkaRule(lag_threshold=1, limit_to_partitions_with_lag=True), 0),
    ],
)
def test_no_more_replicas_than_partitions_or_than_partitions_with_lag(lags, rule, metric):
    assert KafkaTrigger(rule).read([Offsets(0, lag) for lag in lags]).metric == metric


@pytest.mark.parametrize(("lag", "active"), [(0, False), (3, False), (4, True)])
def test_a_trigger_is_active_above_the_activation_threshold(lag, active):
    assert KafkaTrigger(KafkaRule(activation_lag_threshold=3)).read([Offsets(0, lag)]).active is active


def test_idle_consumers_and_a_limit_by_lag_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        KafkaRule(allow_idle_consumers=True, limit_to_partitions_with_lag=True)


def test_a_partition_with_the_offset_of_the_query_before_is_persistent_lag_until_it_moves():
    trigger = KafkaTrigger(KafkaRule(exclude_persistent_lag=True))
    assert trigger.read([Offsets(5, 9)]) == (4, True)
    assert trigger.read([Offsets(5, 9)]) == (0, True)  # still active: the last replica stays
    assert trigger.read([Offsets(6, 9)]) == (3, True)
    trigger.forget()
    assert trigger.read([Offsets(6, 9)]) == (3, True)


@pytest.mark.parametrize(
    ("samples", "ignored", "reading"),
    [
        ([7.5], True, (7.5, True)),
        ([0.0], True, (0.0, False)),
        ([], True, (0.0, False)),
        ([], False, None),
        ([1.0, 2.0], True, None),
    ],
)
def test_a_query_that_finds_nothing_counts_as_zero_unless_told_otherwise(samples, ignored, reading):
    assert PrometheusTrigger(PrometheusRule(4, ignore_null_values=ignored)).read(samples) == reading


@pytest.mark.parametrize(
    ("behavior", "from_two", "from_nine"),
    [
        ("static", 6, 6),
        ("currentReplicas", 2, 9),
        ("currentReplicasIfHigher", 6, 9),
        ("currentReplicasIfLower", 2, 6),
    ],
)
def test_the_fallback_is_a_number_or_what_runs_or_the_higher_or_lower_of_both(behavior, from_two, from_nine):
    fallback = Fallback(3, 6, behavior)
    assert (fallback.count(2), fallback.count(9)) == (from_two, from_nine)


class Scaled:
    """A Deployment under an autoscaler: each step is 15 s, and pods appear and leave at once."""

    def __init__(self, scaling: Scaling, replicas: int = 0) -> None:
        self._autoscaler = Autoscaler(scaling, KafkaTrigger(scaling.rule))
        self.now_s, self.replicas = 0.0, replicas

    def for_s(self, seconds: float, *seen: Offsets, away: bool = False) -> list[int]:
        """Return the replicas after each step; `away`: the broker does not answer KEDA."""
        counts = []
        for _ in range(int(seconds // 15)):
            self.now_s += 15
            self.replicas = self._autoscaler.step(self.now_s, None if away else seen, self.replicas)
            counts.append(self.replicas)
        return counts


LOAD, IDLE = [Offsets(0, 9)] * 4, [Offsets(9, 9)] * 4
KAFKA = KafkaRule(1, offset_reset_policy="earliest", limit_to_partitions_with_lag=True)
OURS = Scaling(KAFKA, most=4, polling_s=15, fallback=Fallback(3, 1, "currentReplicasIfHigher"))


def test_the_first_replica_starts_with_the_first_record_and_the_last_stops_after_the_cooldown():
    scaled = Scaled(OURS)
    assert scaled.for_s(600, *IDLE) == [0] * 40
    assert scaled.for_s(15, Offsets(9, 10), *IDLE[1:]) == [1]
    assert set(scaled.for_s(300, *IDLE)) == {1}
    assert scaled.for_s(30, *IDLE)[-1] == 0


def test_with_a_least_count_that_many_always_run():
    scaled = Scaled(replace(OURS, least=2))
    assert scaled.for_s(15, *IDLE) == [2]
    assert set(scaled.for_s(1200, *IDLE)) == {2}


def test_while_the_broker_does_not_answer_all_replicas_stay():
    scaled = Scaled(OURS)
    scaled.for_s(60, *LOAD)
    assert set(scaled.for_s(7200, away=True)) == {4}
    assert scaled.for_s(60, *LOAD)[-1] == 4


def test_a_static_fallback_gives_replicas_up_during_an_outage_and_ours_does_not():
    static = Scaled(replace(OURS, fallback=Fallback(3, 1, "static")))
    static.for_s(60, *LOAD)
    assert static.for_s(900, away=True)[-1] == 1


def test_a_fallback_of_no_replicas_stops_all_during_an_outage():
    """KEDA takes it for no fallback, and a trigger that cannot be read for one that is not active."""
    none = Scaled(replace(OURS, fallback=Fallback(3, 0, "currentReplicasIfHigher")))
    none.for_s(60, *LOAD)
    assert none.for_s(330, away=True)[-1] == 0


def test_without_a_fallback_all_replicas_stay_too():
    bare = Scaled(replace(OURS, fallback=None))
    bare.for_s(60, *LOAD)
    assert set(bare.for_s(7200, away=True)) == {4}


def test_nothing_starts_from_zero_during_an_outage():
    """The fallback reaches Kubernetes through the HPA, which is off as long as there is no replica.

    So it is up to KEDA 2.18. From 2.19 KEDA applies it from zero by itself, and slides wait less.
    """
    scaled = Scaled(OURS)
    assert set(scaled.for_s(1200, away=True)) == {0}
    assert scaled.for_s(30, *LOAD)[-1] == 4


def test_excluding_persistent_lag_takes_the_workers_of_healthy_long_jobs_away():
    """Four workers, each with a slide that takes longer than two polls, and more slides waiting."""
    excluding = Scaled(replace(OURS, rule=replace(KAFKA, exclude_persistent_lag=True)), replicas=4)
    ours = Scaled(OURS, replicas=4)
    busy = [Offsets(3, 9)] * 4
    assert excluding.for_s(900, *busy)[-1] == 1
    assert ours.for_s(900, *busy)[-1] == 4


@pytest.mark.parametrize("policy", ["latest", "earliest"])
def test_partitions_without_an_offset_pin_the_maximum_and_committed_starts_do_not(policy):
    """All was done and removed long ago, but in two partitions the group's offsets are gone or never were."""
    rule = replace(KAFKA, offset_reset_policy=policy)
    pinned = Scaled(replace(OURS, rule=rule))
    assert pinned.for_s(7200, *IDLE[:2], OLD, OLD)[-1] == 2
    committed = Scaled(replace(OURS, rule=rule))
    assert set(committed.for_s(7200, *IDLE[:2], Offsets(900, 900), Offsets(900, 900))) == {0}


def test_ignoring_partitions_without_an_offset_hides_their_first_record():
    """So that is no way out: the slide waits until another partition wakes a worker."""
    blind = Scaled(replace(OURS, rule=replace(KAFKA, scale_to_zero_on_invalid_offset=True)))
    assert set(blind.for_s(7200, *IDLE[:3], Offsets(-1, 1))) == {0}
    assert Scaled(OURS).for_s(15, *IDLE[:3], Offsets(0, 1)) == [1]


def test_a_manifest_is_read_with_its_numbers():
    scaling = scaling_of(tiler_object())
    assert (scaling.least, scaling.most, scaling.polling_s) == (0, PARTITIONS, 15)
    assert scaling.rule == KAFKA
    assert scaling.fallback == Fallback(3, 2, "currentReplicasIfHigher")
    assert (scaling.up.window_s, scaling.down.window_s, len(scaling.down.policies)) == (0, 300, 1)
    assert autoscaler_of(tiler_object()).step(0.0, LOAD, 0) > 0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("idleReplicaCount",), 0),
        (("advanced", "scalingModifiers"), {"formula": "a"}),
        (("fallback", "extra"), 1),
        (("triggers", 0, "metricType"), "Value"),
        (("triggers", 0, "useCachedMetrics"), True),
        (("triggers", 0, "metadata", "ensureEvenDistributionOfPartitions"), "true"),
        (("triggers", 0, "metadata", "excludePersistentLag"), False),
    ],
)
def test_a_manifest_with_a_setting_that_is_not_modelled_is_refused(path, value):
    manifest = tiler_object()
    place = manifest["spec"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=r"model|texts"):
        scaling_of(manifest)
