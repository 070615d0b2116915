"""What goes wrong in a simulated day costs time and work, and no slide."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from histgen_lib.bus._sharing import partition_of
from histgen_lib.capacity.demand import partitions_of
from histgen_lib.capacity.rehearsal import scaling_of
from histgen_lib.capacity.simulation.day import Day, Gpus, Trouble, Work, simulate
from histgen_lib.capacity.simulation.fleet import Pods
from histgen_lib.capacity.simulation.loop import Loop
from histgen_lib.capacity.simulation.station import Patience, Station
from histgen_lib.capacity.simulation.steps import Delay, Job, SharedServer

SLIDES = 3_000


def day(*, workers=4, partitions=16, troubles=(), patience=None, job_s=10.0, per_s=0.3, **pods):
    """Make a day of some tilers and a reporter, with jobs of equal length and arrivals at random."""
    chance = np.random.default_rng(7)
    where = chance.integers(0, partitions, SLIDES)
    arrivals = np.cumsum(chance.exponential(1 / per_s, SLIDES))
    tiler = Work(np.full(SLIDES, job_s), where, partitions, Pods(workers, **pods), patience or Patience())
    reporter = Work(np.full(SLIDES, 1.0), where, partitions, Pods(1))
    return Day(arrivals, {"tiler": tiler, "reporter": reporter}, troubles=troubles)


def assert_all_ended_once(result):
    assert result.unfinished == 0
    assert result.drafts + result.letters == SLIDES
    drafted = np.isfinite(result.scan_to_draft_s)
    assert drafted.sum() == result.drafts
    done = [station.done_s for station in result.stations.values()]
    assert (done[0][drafted] <= done[1][drafted]).all()


def test_a_quiet_day_does_every_job_once():
    result = simulate(day())

    assert_all_ended_once(result)
    assert result.letters == 0
    for station in result.stations.values():
        assert (station.attempts, station.redone) == (SLIDES, 0)


def test_the_same_day_ends_in_the_same_way():
    one, other = (simulate(day(patience=Patience(fails=0.1))) for _ in range(2))

    assert (one.scan_to_draft_s == other.scan_to_draft_s)[np.isfinite(one.scan_to_draft_s)].all()
    assert replace(one, took_s=0.0).samples == replace(other, took_s=0.0).samples


def test_crashed_jobs_are_done_again_and_given_up_after_their_attempts():
    result = simulate(day(patience=Patience(fails=0.3, max_attempts=3), per_s=0.2))

    assert_all_ended_once(result)
    assert result.letters == pytest.approx(SLIDES * 0.3**3, rel=0.25)
    assert result.stations["tiler"].attempts == pytest.approx(SLIDES * (1 + 0.3 + 0.09), rel=0.03)


class Once(Random):
    """Has the first attempt of all crash."""

    def random(self):
        first, self.__dict__["used"] = not self.__dict__.get("used"), True
        return 0.0 if first else 1.0


def test_a_slide_that_is_set_aside_holds_up_no_other():
    loop, order = Loop(), []
    station = Station(
        loop, "tiler", [0, 0, 0], 1,
        steps=[Delay(loop, [1.0, 1.0, 1.0])], ended=lambda slide, done: order.append((slide, done)),
        patience=Patience(fails=0.5, first_delay_s=2.0), chance=Once(),
    )  # fmt: skip
    for slide in range(3):
        station.arrive(slide)
    station.join("one")
    loop.run()

    assert order == [(1, True), (2, True), (0, True)]  # it is due again after the second
    assert station.redone == 1


def test_a_lost_node_costs_its_jobs_and_the_session_but_no_slide():
    quiet = simulate(day())
    lost = simulate(day(troubles=[Trouble(3_000.0, "lose", "tiler", 2)], lost_s=300.0, start_s=30.0))

    assert_all_ended_once(lost)
    assert 1 <= lost.stations["tiler"].redone <= 2
    assert lost.draft_s(99) > quiet.draft_s(99)
    ready = {round(sample.at_s): sample.ready[0] for sample in lost.samples}
    assert (ready[2_940], ready[3_060], ready[3_360]) == (4, 2, 4)


def test_the_autoscaler_does_not_replace_pods_that_nobody_knows_to_be_lost():
    """They count until Kubernetes gives their node up, however long the lag is."""
    troubles = [Trouble(10.0, "lose", "tiler", 3)]
    busy = day(workers=4, per_s=1.0, scaling=scaling_of(8), troubles=troubles, lost_s=300.0, start_s=30.0)
    result = simulate(busy)
    ready = {round(sample.at_s): sample.ready[0] for sample in result.samples}

    assert_all_ended_once(result)
    assert (ready[60], ready[300], ready[360]) == (1 + 4, 1 + 4, 8)


def test_partitions_of_a_dead_member_wait_until_its_session_has_run_out():
    loop, done = Loop(), {}
    station = Station(
        loop, "tiler", [0], 1,
        steps=[Delay(loop, [5.0])], ended=lambda slide, fine: done.update({slide: loop.now}),
        patience=Patience(session_s=10.0),
    )  # fmt: skip
    station.join("one")
    loop.run(0.0)
    station.arrive(0)
    loop.after(2.0, station.kill, "one")
    loop.after(2.0, station.join, "two")
    loop.run()

    assert done == {0: 2.0 + 10.0 + 5.0}
    assert station.redone == 1


def test_a_rolling_update_loses_nothing_and_does_no_job_twice():
    result = simulate(day(troubles=[Trouble(2_000.0, "update", "tiler")], start_s=60.0))

    assert_all_ended_once(result)
    assert result.stations["tiler"].redone == 0
    assert min(sample.ready[0] for sample in result.samples if sample.at_s > 0) >= 4


def test_a_grace_that_is_too_short_hands_jobs_back():
    """An update that gives a job less time than it takes has it done twice; still nothing is lost."""
    short = day(troubles=[Trouble(2_000.0, "update", "tiler")], patience=Patience(grace_s=1.0))
    result = simulate(short)

    assert_all_ended_once(result)
    assert result.stations["tiler"].redone > 0


def test_workers_beyond_the_partitions_are_idle():
    enough = simulate(day(workers=4, partitions=4, per_s=0.25))
    more = simulate(day(workers=8, partitions=4, per_s=0.25))

    waits = [result.stations["tiler"].waits_s for result in (enough, more)]
    assert np.allclose(*waits)
    half = enough.stations["tiler"].utilisation / 2
    assert more.stations["tiler"].utilisation == pytest.approx(half, rel=0.01)


def test_partitions_that_do_not_divide_evenly_make_some_workers_wait_longer():
    uneven = simulate(day(workers=3, partitions=4, per_s=0.25)).stations["tiler"].waits_s
    even = simulate(day(workers=3, partitions=12, per_s=0.25)).stations["tiler"].waits_s

    assert uneven.mean() > 1.5 * even.mean()


def test_pods_follow_the_lag_up_and_down_and_take_time_to_start():
    scaled = day(workers=1, partitions=16, scaling=scaling_of(8), start_s=60.0)
    result = simulate(scaled)

    assert_all_ended_once(result)
    ready = [sample.ready[0] for sample in result.samples]
    assert ready[0] <= 1
    assert max(ready) > 3
    assert result.stations["tiler"].pod_hours < 8 * result.ended_at_s / 3600


def test_a_lost_gpu_slows_all_down_until_another_one_serves():
    chance = np.random.default_rng(3)
    where, arrivals = chance.integers(0, 16, SLIDES), np.cumsum(chance.exponential(1.0, SLIDES))
    seconds = np.full(SLIDES, 1.43)
    work = Work(np.full(SLIDES, 0.1), where, 16, Pods(8), on_gpu=seconds)
    gpus = Gpus(2, start_s=100.0, lost_s=200.0)
    whole = simulate(Day(arrivals, {"tiler": work}, gpus))
    broken = simulate(Day(arrivals, {"tiler": work}, gpus, [Trouble(1_000.0, "lose", "gpus", 1)]))

    assert broken.drafts == SLIDES
    assert broken.draft_s(99) > 5 * whole.draft_s(99)
    assert whole.gpu_busy_hours * 3600 == pytest.approx(seconds.sum())


def test_only_gpus_that_were_there_come_back():
    """Five are to be lost where there are two: two come back, and four workers go on at half their pace."""
    work = Work(np.zeros(SLIDES), np.arange(SLIDES) % 4, 4, Pods(4), on_gpu=np.full(SLIDES, 1.0))
    gpus = Gpus(2, start_s=10.0, lost_s=10.0)
    day = Day(np.zeros(SLIDES), {"tiler": work}, gpus, [Trouble(100.0, "lose", "gpus", 5)])

    assert simulate(day).ended_at_s == pytest.approx(SLIDES / 2 + 20.0)


def test_a_day_lasts_although_its_slides_have_ended():
    """Pods and GPUs are there all day; how fast slides were drafted is another matter."""
    short = replace(day(), gpus=Gpus(3))
    whole = replace(short, lasts_s=86_400.0)
    results = [simulate(one) for one in (short, whole)]

    assert results[0].ended_at_s == results[1].ended_at_s < 86_400
    assert results[0].per_hour == results[1].per_hour
    assert results[1].gpu_hours == pytest.approx(3 * 24)
    assert [station.pod_hours for station in results[1].stations.values()] == pytest.approx([4 * 24, 24])


def test_a_day_that_is_too_short_for_its_slides_goes_on_until_they_have_ended():
    assert simulate(replace(day(), lasts_s=1_000.0)).unfinished == 0


def test_work_of_different_kinds_shares_one_server():
    """Two tilers that take up half of a GPU each leave none for a report: all three are slowed down alike."""
    loop, ended = Loop(), []
    server = SharedServer(loop, 1.0)
    tiles, report = server.step([10.0, 10.0], share=0.5), server.step([0.0, 0.0, 4.0])
    for slide, step in ((0, tiles), (1, tiles), (2, report)):
        step.begin(Job(slide, None), lambda job: ended.append((job.slide, loop.now)))
    loop.run()

    assert ended == [(2, 8.0), (0, 14.0), (1, 14.0)]
    assert server.busy_s() == pytest.approx(0.5 * 10 + 0.5 * 10 + 4)


def test_a_job_that_was_dropped_leaves_the_server_to_the_others():
    loop, ended = Loop(), []
    server = SharedServer(loop, 1.0)
    station = Station(
        loop, "tiler", [0, 1], 2,
        steps=[server.step([10.0, 10.0])], ended=lambda slide, done: ended.append((slide, loop.now)),
        patience=Patience(session_s=1_000.0),
    )  # fmt: skip
    station.join("one")
    station.join("two")
    loop.run(0.0)
    station.arrive(0)
    station.arrive(1)
    loop.after(4.0, station.kill, "one")
    loop.run(100.0)

    assert ended == [(1, 12.0)]  # half speed for 4 s, then all of it
    assert server.busy_s() == pytest.approx(12.0)


def test_records_lie_where_the_bus_puts_them():
    found = partitions_of(500, 12)

    assert [int(part) for part in found] == [partition_of(f"slide-{n}", 12) for n in range(500)]
    assert min(Counter(found.tolist()).values()) > 20
