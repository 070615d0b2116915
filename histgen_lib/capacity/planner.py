"""From a demand and measured rates to pods, GPUs and partitions, also for a lost node and an update."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from histgen_lib.capacity.demand import DAY_S, Demand, noise
from histgen_lib.capacity.queueing import Group, crowding, draft_seconds
from histgen_lib.capacity.rates import CPU, GpuRates, Rates
from histgen_lib.errors import InvalidInputError

BUSY_MOST, UNEVEN_MOST = 0.7, 0.75
"""How busy workers and GPUs are planned to be in the busiest hour, at most: all together, and the one worker
whose partitions have most to do."""
PER_WORKER, LEAST_PARTITIONS, MOST_PARTITIONS = 4, 12, 10_000
"""Partitions for each worker: with fewer, some workers would have twice the work of others. The most is the
limit of HISTGEN_BUS_PARTITIONS."""
DRAWS = 20_000
PERCENTILES = (50.0, 95.0, 99.0)
"""Of the seconds to a draft, that plans name, beside the goal's own."""
SURGE = 0.25
TILER, REPORTER = "tiler", "reporter"


@dataclass(frozen=True)
class Goal:
    """`percentile` of slides are to be drafted within `minutes` of their scan, also in the busiest hour.

    `availability`: the probability with which all pods that this takes are there.
    """

    minutes: float = 15.0
    percentile: float = 99.0
    availability: float = 0.999


@dataclass(frozen=True)
class Assumptions:
    """What nobody measured here. Every plan prints them.

    `pod_s`: from the decision to start a pod until its process starts (scheduling, image); `gpu_pod_s`: until
    Triton serves (image, engine from the cache, loading). `lost_s`: until Kubernetes replaces the pods of a
    node that is gone (40 s to notice, 300 s of toleration: its defaults). `node_days`: days between failures
    of a node, which has one pod of each kind at most.
    """

    pod_s: float = 30.0
    gpu_pod_s: float = 180.0
    lost_s: float = 340.0
    node_days: float = 30.0

    def down(self, start_s: float) -> float:
        """Return the share of time in which a pod is missing that takes `start_s` to start."""
        return (self.lost_s + start_s) / (self.node_days * DAY_S)


@dataclass(frozen=True, kw_only=True)
class _Pods:
    """Pods of one kind. `needed` for the goal, `spare` on top.

    `load`: of the busiest pod in the busiest hour, `load_less` while one pod is gone.
    """

    name: str
    needed: int
    spare: int
    load: float
    load_less: float

    @property
    def most(self) -> int:
        """All of them: maxReplicas."""
        return self.needed + self.spare


@dataclass(frozen=True, kw_only=True)
class ServicePlan(_Pods):
    """A service's pods of one core; `busy` cores in the busiest hour.

    `job_s`, `spread`: a job's mean seconds and coefficient of variation.
    """

    job_s: float
    spread: float
    busy: float


@dataclass(frozen=True, kw_only=True)
class GpuPlan(_Pods):
    """GPUs behind Triton, one to a pod."""

    rates: GpuRates


@dataclass(frozen=True)
class Plan:
    """What a demand takes. `draft_s`: predicted from scan to draft in the busiest hour, by percentile."""

    demand: Demand
    goal: Goal
    rates: Rates
    assumed: Assumptions
    services: Mapping[str, ServicePlan]
    gpus: GpuPlan | None
    partitions: int
    draft_s: Mapping[float, float]

    @property
    def start_s(self) -> float:
        """From the decision to start a worker's pod until it takes records."""
        return self.assumed.pod_s + self.rates.start_s

    def update_s(self, name: str) -> float:
        """Return how long a rolling update takes: pods start in turns; the last old ones finish their jobs.

        Nobody waits for those that were stopped in a turn before.
        """
        service = self.services[name]
        turns = math.ceil(service.most / max(1, math.ceil(SURGE * service.most)))
        return turns * self.start_s + service.job_s


def make_plan(
    demand: Demand,
    rates: Rates,
    *,
    gpu: str = CPU,
    goal: Goal | None = None,
    assumed: Assumptions | None = None,
) -> Plan:
    """Size everything for the busiest hour.

    Raises InvalidInputError: "gpu-unmeasured"; "plan-impossible" if a slide alone takes too long, or it
    takes more workers than there can be partitions.
    """
    goal, assumed = goal or Goal(), assumed or Assumptions()
    gpus = _gpus(demand, gpu, rates.gpu(gpu), goal, assumed)
    jobs = job_seconds(demand, rates, gpus, DRAWS)
    enough = {name: _least(demand.peak_per_s * float(seconds.mean())) for name, seconds in jobs.items()}
    _check_possible(jobs, goal)
    down = assumed.down(assumed.pod_s + rates.start_s)
    workers, load = dict(enough), 0.0
    while True:
        most = {name: count + _spare(count, goal, down) for name, count in workers.items()}
        if max(most.values()) > MOST_PARTITIONS:
            raise _too_many(enough, workers, goal, uneven=load > UNEVEN_MOST)
        partitions = _partitions(max(most.values()))
        groups = {name: _group(workers[name], partitions, seconds) for name, seconds in jobs.items()}
        loads = {name: group.load(demand.peak_per_s) for name, group in groups.items()}
        load = max(loads.values())
        if load > UNEVEN_MOST:
            grown = max(loads, key=lambda name: loads[name])
        else:
            drafts = draft_seconds(list(groups.values()), demand.peak_per_s, list(jobs.values()))
            if np.percentile(drafts, goal.percentile) <= goal.minutes * 60:
                break
            waits = {name: group.wait_s(demand.peak_per_s) for name, group in groups.items()}
            grown = max(waits, key=lambda name: waits[name])
        workers[grown] += max(1, workers[grown] // 50)
    services = {name: _service(name, demand.peak_per_s, group, most[name]) for name, group in groups.items()}
    return Plan(
        demand=demand,
        goal=goal,
        rates=rates,
        assumed=assumed,
        services=services,
        gpus=gpus,
        partitions=partitions,
        draft_s={
            part: float(np.percentile(drafts, part)) for part in sorted({*PERCENTILES, goal.percentile})
        },
    )


def job_seconds(
    demand: Demand, rates: Rates, gpus: GpuPlan | None, count: int, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Draw the seconds of jobs in the busiest hour, when all share the GPUs with others."""
    tiles = replace(demand, slides_per_day=count).tiles_of(seed)
    own, on_gpu = own_seconds(tiles, rates, gpus, seed)
    crowded = _crowding(demand, rates, gpus) if gpus else 1.0
    return {name: seconds + crowded * on_gpu.get(name, 0.0) for name, seconds in own.items()}


def own_seconds(
    tiles: NDArray[np.float64], rates: Rates, gpus: GpuPlan | None, seed: int = 0
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Return the seconds of each service's jobs on their cores, and those beside a free GPU, if it uses one.

    While a GPU encodes, the tiler reads on: both together take as long as the slower one.
    """
    chance = np.random.default_rng([seed, 4])
    tiler, reporter = rates.tiler, rates.reporter
    report_s, on_gpu = np.full(len(tiles), reporter.report_s), {}
    if gpus is None:
        tiling_s = tiler.slide_s + tiles * (tiler.read_s + tiler.encode_s)
    else:
        tiling_s, on_gpu[TILER] = np.full(len(tiles), tiler.slide_s), tiles / tiles_per_tiler(rates, gpus)
    if gpus is None or gpus.rates.report_s is None:
        report_s = report_s + tiles * reporter.tile_s
    else:
        report_s = report_s - reporter.model_s
        on_gpu[REPORTER] = np.full(len(tiles), gpus.rates.report_s)
    tiling_s = tiling_s * noise(chance, tiler.spread, len(tiles))
    return {TILER: tiling_s, REPORTER: report_s * noise(chance, reporter.spread, len(tiles))}, on_gpu


def tiles_per_tiler(rates: Rates, gpus: GpuPlan) -> float:
    """Return how many tiles a second one tiler gets encoded: it reads on one core, for one GPU at a time."""
    return min(1 / max(rates.tiler.read_s, 1e-9), gpus.rates.tiles_per_second)


def gpu_share(name: str, rates: Rates, gpus: GpuPlan) -> float:
    """Return how much of a free GPU a service's job takes up while it uses one."""
    return tiles_per_tiler(rates, gpus) / gpus.rates.tiles_per_second if name == TILER else 1.0


def _crowding(demand: Demand, rates: Rates, gpus: GpuPlan) -> float:
    """Return how many times as long as on free GPUs jobs take on those that they share."""
    alone_s = demand.tiles / tiles_per_tiler(rates, gpus) + (gpus.rates.report_s or 0.0)
    share = gpus.rates.slide_s(demand.tiles) / alone_s
    return crowding(gpus.needed / share, demand.peak_per_s * alone_s)


def _gpus(
    demand: Demand, name: str, rates: GpuRates | None, goal: Goal, assumed: Assumptions
) -> GpuPlan | None:
    if rates is None:
        return None
    busy = demand.peak_per_s * rates.slide_s(demand.tiles)
    needed = _least(busy)
    spare = _spare(needed, goal, assumed.down(assumed.gpu_pod_s))
    most = needed + spare
    return GpuPlan(
        name=name,
        rates=rates,
        needed=needed,
        spare=spare,
        load=busy / most,
        load_less=busy / max(1, most - 1),
    )


def _least(busy: float) -> int:
    return max(1, math.ceil(busy / BUSY_MOST))


def _spare(needed: int, goal: Goal, down: float) -> int:
    """Return how many more it takes to have `needed` at least with the wanted probability: one or more.

    `down`: the share of time in which each is missing, whether others are or not.
    """
    spare = 1
    while _at_least(needed, needed + spare, 1 - down) < goal.availability:
        spare += 1
    return spare


def _at_least(needed: int, count: int, up: float) -> float:
    """Return the probability that `needed` of `count` are there."""
    chances = (
        math.exp(
            math.lgamma(count + 1)
            - math.lgamma(gone + 1)
            - math.lgamma(count - gone + 1)
            + (count - gone) * math.log(up)
            + gone * math.log1p(-up)
        )
        for gone in range(count - needed + 1)
    )
    return math.fsum(chances)


def _check_possible(jobs: Mapping[str, NDArray[np.float64]], goal: Goal) -> None:
    alone = float(np.percentile(sum(jobs.values()), goal.percentile))
    if alone > goal.minutes * 60:
        raise InvalidInputError(
            "plan-impossible",
            f"{goal.percentile:g} % of slides cannot be drafted within {goal.minutes:g} minutes: without any "
            f"waiting, the slowest of them take {alone / 60:.0f} minutes of work.",
            hint="No number of pods helps. Use a GPU, measure with a faster model (--rates), or allow more "
            "with --target-minutes.",
        )


def _partitions(most: int) -> int:
    """Return a number of partitions for all topics. `most`: workers of any service."""
    return min(MOST_PARTITIONS, max(LEAST_PARTITIONS, math.ceil(PER_WORKER * most / 12) * 12))


def _too_many(
    enough: Mapping[str, int], workers: Mapping[str, int], goal: Goal, *, uneven: bool
) -> InvalidInputError:
    """Return the refusal of more workers than partitions.

    `enough`: as many as the work takes. `uneven`: there are too few partitions to share it out among more.
    """
    name = max(workers, key=lambda one: workers[one])
    if workers[name] == enough[name]:
        said = f"It takes {enough[name]:,} {name}s and spares"
    elif uneven:
        said = (
            f"{enough[name]:,} {name}s could do the work if it were shared out evenly, but some would have "
            f"two partitions and others one; those with two would be busier than {100 * UNEVEN_MOST:.0f} %"
        )
    else:
        said = (
            f"More and more {name}s still leave too many slides with more than {goal.minutes:g} minutes to "
            "their draft"
        )
    return InvalidInputError(
        "plan-impossible",
        f"{said}: a topic has at most {MOST_PARTITIONS:,} partitions.",
        hint="A partition has one worker at a time. Use GPUs, or faster ones, or divide the slides among "
        "several stacks.",
    )


def _group(workers: int, partitions: int, seconds: NDArray[np.float64]) -> Group:
    mean_s = float(seconds.mean())
    return Group(workers, partitions, mean_s, float(seconds.std()) / mean_s)


def _service(name: str, per_s: float, group: Group, most: int) -> ServicePlan:
    all_there, less = replace(group, workers=most), replace(group, workers=max(1, most - 1))
    return ServicePlan(
        name=name,
        job_s=group.mean_s,
        spread=group.spread,
        busy=per_s * group.mean_s,
        needed=group.workers,
        spare=most - group.workers,
        load=all_there.load(per_s),
        load_less=less.load(per_s),
    )
