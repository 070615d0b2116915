"""The simulation agrees with queueing theory, where theory has an answer.

Seeds are fixed. Each bound is four standard errors of the mean, from the means of 20 stretches of the run:
waits of neighbours are not independent.
"""

from __future__ import annotations

import numpy as np
import pytest

from histgen_lib.capacity.queueing import crowding, erlang_c, mg1_wait_s, mmc_wait_s
from histgen_lib.capacity.simulation.day import Day, Gpus, Work, simulate
from histgen_lib.capacity.simulation.fleet import Pods

SLIDES, WARM_UP, STRETCHES = 40_000, 2_000, 20
LOAD = 0.7


def at_random(per_s, seed):
    return np.cumsum(np.random.default_rng(seed).exponential(1 / per_s, SLIDES))


def day(per_s, seconds, *, workers=1, partitions=1, seed=1, gpus=None, on_gpu=()):
    where = np.random.default_rng(seed + 100).integers(0, partitions, SLIDES)
    pods = Pods(workers)
    tiler = Work(np.asarray(seconds), where, partitions, pods, on_gpu=np.asarray(on_gpu))
    return Day(at_random(per_s, seed) + 1.0, {"tiler": tiler}, gpus)


def assert_mean(values, expected):
    stretches = np.array([part.mean() for part in np.array_split(values[WARM_UP:], STRETCHES)])
    error = stretches.std(ddof=1) / np.sqrt(STRETCHES)
    assert error < 0.1 * expected, "the run is too short to say anything"
    assert abs(stretches.mean() - expected) < 4 * error, (stretches.mean(), expected, error)


def test_one_worker_with_random_jobs_is_m_m_1():
    seconds = np.random.default_rng(2).exponential(1.0, SLIDES)
    waits = simulate(day(LOAD, seconds)).stations["tiler"].waits_s

    assert_mean(waits, LOAD / (1 - LOAD))


def test_one_worker_with_equal_jobs_is_m_d_1():
    waits = simulate(day(LOAD, np.ones(SLIDES))).stations["tiler"].waits_s

    assert_mean(waits, LOAD / (2 * (1 - LOAD)))


def test_workers_of_one_topic_are_queues_of_their_own():
    """Partitions are no common queue: with eight workers slides wait as with one that has an eighth."""
    seconds = np.random.default_rng(3).exponential(1.0, SLIDES)
    waits = simulate(day(8 * LOAD, seconds, workers=8, partitions=64)).stations["tiler"].waits_s

    assert_mean(waits, mg1_wait_s(LOAD, 1.0, 1.0))
    assert waits.mean() > 3 * mmc_wait_s(8 * LOAD, 1.0, 8)


@pytest.mark.parametrize("servers", [2, 8])
def test_a_server_that_jobs_share_takes_as_long_as_m_m_c(servers):
    """With n jobs, both serve min(n, c) of them, so both hold as many jobs (Little: for as long)."""
    per_s, work = LOAD * servers, np.random.default_rng(4).exponential(1.0, SLIDES)
    gpus = Gpus(count=servers)
    many = day(per_s, np.zeros(SLIDES), workers=400, partitions=4_000, gpus=gpus, on_gpu=work)
    station = simulate(many).stations["tiler"]

    assert_mean(station.done_s - station.began_s, 1.0 + mmc_wait_s(per_s, 1.0, servers))


def test_littles_law_holds_whatever_the_jobs():
    """Slides in the stream, counted every minute, are the arrivals' rate times their mean time in it."""
    seconds = np.random.default_rng(5).lognormal(0.0, 0.8, SLIDES)
    per_s = LOAD / seconds.mean()
    result = simulate(day(per_s, seconds))
    station, until = result.stations["tiler"], result.arrivals_s[-1]
    counted = [sample.waiting[0] for sample in result.samples if sample.at_s < until]

    assert np.mean(counted) == pytest.approx(SLIDES / until * station.waits_s.mean(), rel=0.05)


def test_a_group_has_the_load_that_it_was_planned_for():
    result = simulate(day(8 * LOAD, np.ones(SLIDES), workers=8, partitions=64))

    assert result.stations["tiler"].utilisation == pytest.approx(LOAD, rel=0.02)


def test_erlang_c_is_what_tables_say():
    """Two servers with one Erlang: 1/3 (A. O. Allen, Probability, Statistics and Queueing Theory, 1990)."""
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(4, 4.0) == 1.0


@pytest.mark.parametrize(("servers", "offered"), [(1, 0.7), (4, 2.8), (50, 40.0), (800, 790.0)])
def test_crowding_is_m_m_c_for_whole_numbers(servers, offered):
    assert crowding(servers, offered) == pytest.approx(1 + mmc_wait_s(offered, 1.0, servers))


def test_crowding_falls_with_every_bit_of_capacity():
    found = [crowding(capacity, 1.5) for capacity in (1.6, 1.9, 2.0, 2.4, 3.0)]

    assert found == sorted(found, reverse=True)
    assert crowding(1.5, 1.5) == float("inf")
