"""A day under our ScaledObject: one that was recorded on a real Kafka, and one that is simulated."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hospital_day import BURST_AT, DAY_S, arrivals
from scaled_object import PARTITIONS, tiler_object
from simulated_day import STEP_S, Day, Moment, changes, replayed, too_few, turns

from histgen_lib.capacity.autoscaler import autoscaler_of

RECORDED = Path(__file__).resolve().parents[2] / "recorded" / "day.csv"
UNTIL_S = DAY_S + 2 * 3600
BURST_S = 3600 * BURST_AT


def simulated(outages=(), most=PARTITIONS, fallback=None, finishes=True, **metadata: str) -> list[Moment]:
    """Simulate a day; check whether all slides were done in the two hours after it."""
    manifest = tiler_object(**metadata)
    manifest["spec"]["maxReplicaCount"] = most
    manifest["spec"]["fallback"] |= fallback or {}
    day = Day(autoscaler_of(manifest), arrivals(3), PARTITIONS, outages=outages)
    moments = day.run(UNTIL_S)
    assert (day.done == len(day.arrivals)) is finishes
    return moments


@pytest.fixture(scope="module")
def days() -> dict[str, list[Moment]]:
    with RECORDED.open() as lines:
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    return {
        "recorded": replayed(autoscaler_of(tiler_object()), rows, UNTIL_S),
        "simulated": simulated(),
    }


@pytest.fixture(params=["recorded", "simulated"])
def day(request, days) -> list[Moment]:
    return days[request.param]


def test_more_lag_means_more_workers_within_a_minute(day):
    assert max(moment.with_lag for moment in day) >= PARTITIONS * 3 // 4
    assert too_few(day, 60.0, PARTITIONS) == []


def test_the_first_slide_of_the_night_wakes_a_worker_at_the_next_poll(day):
    for before, now, then in zip(day, day[1:], day[2:], strict=False):
        if before.replicas == 0 and now.lag:
            assert now.replicas or then.replicas, now


def test_never_more_workers_than_partitions_or_than_the_maximum(day):
    assert max(moment.replicas for moment in day) <= PARTITIONS
    assert max(moment.replicas for moment in simulated(most=5)) == 5


def test_no_worker_leaves_within_five_minutes_of_another_that_came(day):
    came_s = float("-inf")
    for at_s, change in changes(day):
        assert change > 0 or at_s - came_s >= 300
        came_s = at_s if change > 0 else came_s


def test_workers_turn_far_less_often_than_slides_come(day, days):
    """Without the window they would turn half as often again, and more."""
    assert turns(day) < len(arrivals(3)) / 3
    hasty = tiler_object()
    config = hasty["spec"]["advanced"]["horizontalPodAutoscalerConfig"]
    config["behavior"]["scaleDown"] = {"stabilizationWindowSeconds": 0}
    hurried = Day(autoscaler_of(hasty), arrivals(3), PARTITIONS).run(UNTIL_S)
    assert turns(hurried) > 1.5 * turns(days["simulated"])


def test_after_the_last_slide_all_workers_leave(day):
    last = max(moment.at_s for moment in day if moment.lag)
    idle = [moment.replicas for moment in day if moment.at_s > last + 300 + 2 * STEP_S]
    assert idle
    assert set(idle) == {0}


def worked(day: list[Moment]) -> float:
    """Return the slides that wait or run, summed over the day."""
    return sum(moment.lag for moment in day) * STEP_S / 3600


OUTAGE = (BURST_S + 120, BURST_S + 3 * 3600)
"""Begins while the burst is worked off."""


def at(day: list[Moment], seconds: float) -> Moment:
    return day[round(seconds / STEP_S)]


def test_while_the_metrics_are_away_the_workers_stay_and_work_off_what_there_is():
    day = simulated(outages=[OUTAGE])
    during = {moment.replicas for moment in day if OUTAGE[0] + STEP_S <= moment.at_s < OUTAGE[1]}
    assert during == {at(day, OUTAGE[0]).replicas}
    assert min(during) >= PARTITIONS - 1


def test_a_static_fallback_would_leave_one_worker_with_the_burst(days):
    static = simulated(outages=[OUTAGE], fallback={"behavior": "static", "replicas": 1})
    assert at(static, OUTAGE[1] - STEP_S).replicas == 1
    assert worked(static) > 2 * worked(days["simulated"])


def test_excluding_persistent_lag_would_keep_slides_waiting_while_workers_are_taken_away(days):
    """With jobs longer than a poll nearly all lag looks persistent."""
    excluding = simulated(finishes=False, excludePersistentLag="true")
    assert worked(excluding) > 2 * worked(days["simulated"])
    assert too_few(excluding, 60.0, PARTITIONS)
