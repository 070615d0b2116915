"""The rules of the HorizontalPodAutoscaler, with the examples of Kubernetes' documentation."""

from __future__ import annotations

import pytest

from histgen_lib.capacity.hpa import DOWN, Hpa, Policy, Rules, wanted


@pytest.mark.parametrize(
    ("metric", "target", "replicas", "result"),
    [
        (200, 100, 1, 2),
        (50, 100, 1, 1),
        (50, 50, 2, 1),
        (30, 10, 1, 3),
        (31, 10, 1, 4),
        (109, 10, 10, 10),  # within a tenth of the target
        (111, 10, 10, 12),
        (91, 10, 10, 10),
        (89, 10, 10, 9),
        (0, 10, 3, 0),
        (30, 10, 0, 3),
    ],
)
def test_as_many_replicas_as_targets_fit_into_the_metric_unless_it_is_near_enough(
    metric, target, replicas, result
):
    assert wanted(metric, target, replicas) == result


def steps(hpa: Hpa, metrics: list[float | None], replicas: int) -> list[int]:
    counts = []
    for turn, metric in enumerate(metrics):
        replicas = hpa.step(turn * 15.0, metric, 1.0, replicas)
        counts.append(replicas)
    return counts


def test_it_goes_up_at_once_by_four_or_by_doubling_every_15_s():
    assert steps(Hpa(1, 100), [100] * 5, 1) == [5, 10, 20, 40, 80]


def test_it_never_leaves_its_bounds():
    assert steps(Hpa(2, 6), [100] * 3, 1) == [2, 6, 6]
    assert steps(Hpa(2, 6), [0] * 30, 9) == [6] * 20 + [2] * 10


def test_it_goes_down_only_to_the_highest_proposal_of_the_last_5_minutes():
    hpa = Hpa(1, 100)
    counts = steps(hpa, [8, *[2] * 10, 5, *[2] * 30], 8)
    assert counts[:20] == [8] * 20
    assert counts[20:31] == [5] * 11
    assert counts[31:] == [2] * 11


def test_a_metric_that_cannot_be_read_changes_nothing():
    assert steps(Hpa(1, 100), [None] * 100, 7) == [7] * 100


def test_without_a_replica_it_is_off():
    assert steps(Hpa(1, 100), [50] * 10, 0) == [0] * 10


def test_ten_percent_or_four_pods_a_minute_as_in_kubernetes_documentation():
    """From 80: by 10% rounded up as long as that is more than 4, then by 4."""
    down = Rules(0.0, (Policy("Pods", 4, 60.0), Policy("Percent", 10, 60.0)))
    hpa, counts, replicas = Hpa(1, 100, down=down), [], 80
    for minute in range(12):
        replicas = hpa.step(minute * 61.0, 10, 1.0, replicas)
        counts.append(replicas)
    assert counts == [72, 64, 57, 51, 45, 40, 36, 32, 28, 24, 20, 16]


def test_the_least_of_the_policies_holds_if_the_manifest_says_so_and_none_if_disabled():
    policies = (Policy("Pods", 4, 60.0), Policy("Percent", 10, 60.0))
    assert steps(Hpa(1, 100, down=Rules(0.0, policies, "Min")), [1, 1], 20) == [18, 18]
    assert steps(Hpa(1, 100, down=Rules(0.0, policies, "Disabled")), [1, 1], 20) == [20, 20]


def test_a_policy_counts_all_changes_of_its_period_in_both_directions():
    one_a_minute = Rules(0.0, (Policy("Pods", 1, 60.0),))
    assert steps(Hpa(1, 100, down=one_a_minute), [1] * 9, 5) == [4, 4, 4, 4, 3, 3, 3, 3, 2]
    assert steps(Hpa(1, 100, up=one_a_minute, down=Rules(0.0, DOWN.policies)), [9, 1, 9], 5) == [6, 1, 6]
