"""The days that docs/capacity.md shows: from 100 to a million slides, bursts, failures and updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from histgen_lib.capacity.costs import network_of, storage_of
from histgen_lib.capacity.demand import PROFILES, Demand
from histgen_lib.capacity.outline import duration, percent, size
from histgen_lib.capacity.planner import Plan, make_plan
from histgen_lib.capacity.rates import Rates, load_rates
from histgen_lib.capacity.rehearsal import day_of, scalings_of
from histgen_lib.capacity.simulation.day import Trouble, simulate
from histgen_lib.capacity.simulation.result import Result

TILES = 4_000.0
ASSUMED, TILES_PER_SECOND, REPORT_S = "assumed", 2_000.0, 0.3
"""A GPU of which nobody measured anything: the plans that use it show how things grow, not what to buy."""
CPU_SLIDES = (100, 1_000, 10_000, 100_000)
GPU_SLIDES = (1_000, 10_000, 100_000, 1_000_000)
NOON = 10.5 * 3600
"""In the busiest hour of the working day."""

Table = Sequence[Sequence[str]]


@cache
def plan_of(slides: int, gpu: str = "cpu", profile: str = "working-hours") -> Plan:
    """Return the plan of a scenario."""
    return make_plan(Demand(slides, TILES, hours=PROFILES[profile]), _rates(), gpu=gpu)


@cache
def _rates() -> Rates:
    return load_rates().assuming(ASSUMED, TILES_PER_SECOND, REPORT_S)


@cache
def day_result(slides: int, gpu: str = "cpu", profile: str = "working-hours") -> Result:
    """Simulate the day of a scenario under the chart's autoscaler."""
    return simulate(day_of(plan_of(slides, gpu, profile)))


def scale_table(gpu: str, slides: Sequence[int]) -> Table:
    """Return what it takes, and how the simulated day went."""
    heading = ["slides a day", "tilers", "reporters", *(["GPUs"] if gpu != "cpu" else []), "partitions"]
    heading += [
        "predicted p50 / p99 at the peak",
        "simulated p50 / p95 / p99",
        "most waiting",
        "tilers' pod hours",
    ]
    return [heading, *(scale_row(count, gpu) for count in slides)]


def scale_row(slides: int, gpu: str = "cpu") -> list[str]:
    """Return one row of that table."""
    plan, result = plan_of(slides, gpu), day_result(slides, gpu)
    pods = [f"{service.needed} + {service.spare}" for service in plan.services.values()]
    if plan.gpus is not None:
        pods.append(f"{plan.gpus.needed} + {plan.gpus.spare}")
    predicted = " / ".join(duration(plan.draft_s[part]) for part in (50.0, 99.0))
    tiler = result.stations["tiler"]
    return [
        f"{slides:,}",
        *pods,
        str(plan.partitions),
        predicted,
        _percentiles(result),
        f"{result.most_waiting:,}",
        f"{tiler.pod_hours:,.0f}, busy {percent(tiler.utilisation)}",
    ]


def things_table(slides: Sequence[int]) -> Table:
    """Return storage and network, on assumed GPUs."""
    heading = [
        "slides a day",
        "bags",
        "thumbnails and reports",
        "a year",
        "slides to tilers",
        "tiles to Triton",
    ]
    rows = []
    for count in slides:
        plan = plan_of(count, ASSUMED)
        storage, network = storage_of(plan), network_of(plan)
        pictures = storage.per_day["thumbnails"] + storage.per_day["reports"]
        rows.append(
            [
                f"{count:,}",
                f"{size(storage.per_day['bags'])} a day",
                f"{size(pictures)} a day",
                size(storage.day * 365),
                f"{size(network['slides to tilers'])}/s",
                f"{size(network['tiles to Triton'])}/s",
            ]
        )
    return [heading, *rows]


@dataclass(frozen=True)
class Case:
    """A day on which something happens."""

    name: str
    troubles: tuple[Trouble, ...] = ()
    fails: float = 0.0
    grace_s: float = 1800.0
    autoscaled: bool = True


CASES = (
    Case("nothing unusual"),
    Case("nothing unusual, all pods all day", autoscaled=False),
    Case("a node with 3 tilers is lost at 10:30", (Trouble(NOON, "lose", "tiler", 3),)),
    Case("all tilers are lost at 10:30", (Trouble(NOON, "lose", "tiler", 1_000),)),
    Case(
        "a rolling update of both services at 10:30",
        (Trouble(NOON, "update", "tiler"), Trouble(NOON, "update", "reporter")),
    ),
    Case(
        "the same with a grace of 20 s",
        (Trouble(NOON, "update", "tiler"), Trouble(NOON, "update", "reporter")),
        grace_s=20.0,
    ),
    Case("a job in a hundred crashes", fails=0.01),
)


@cache
def case_result(case: Case, slides: int = 10_000) -> Result:
    """Simulate that day."""
    day = day_of(
        plan_of(slides),
        troubles=case.troubles,
        fails=case.fails,
        grace_s=case.grace_s,
        autoscaled=case.autoscaled,
    )
    return simulate(day)


def trouble_table(slides: int = 10_000) -> Table:
    """Return what goes wrong, and what it costs."""
    heading = [
        "what happens",
        "drafts",
        "dead letters",
        "p50 / p95 / p99",
        "slowest",
        "most waiting",
        "jobs done again",
    ]
    rows = [heading]
    for case in CASES:
        result = case_result(case, slides)
        redone = sum(station.redone for station in result.stations.values())
        rows.append(
            [
                case.name,
                f"{result.drafts:,}",
                str(result.letters),
                _percentiles(result),
                duration(result.draft_s(100)),
                f"{result.most_waiting:,}",
                str(redone),
            ]
        )
    return rows


def burst_table(slides: int = 10_000) -> Table:
    """Return the same slides at other hours: with pods for that day, and with those for the working day."""
    heading = [
        "when slides come",
        "pods for",
        "tilers",
        "p50 / p95 / p99",
        "most waiting",
        "tilers' pod hours",
    ]
    rows = [heading]
    for profile, planned in (
        ("flat", "flat"),
        ("working-hours", "working-hours"),
        ("night", "night"),
        ("night", "working-hours"),
        ("night", "flat"),
    ):
        plan = plan_of(slides, profile=planned)
        result = _elsewhere(slides, profile, planned)
        tiler = result.stations["tiler"]
        rows.append(
            [
                profile,
                planned,
                str(plan.services["tiler"].most),
                _percentiles(result),
                f"{result.most_waiting:,}",
                f"{tiler.pod_hours:,.0f}",
            ]
        )
    return rows


@cache
def _elsewhere(slides: int, profile: str, planned: str) -> Result:
    demand = plan_of(slides, profile=profile).demand
    return simulate(day_of(plan_of(slides, profile=planned), demand=demand))


def partition_table(slides: int = 10_000) -> Table:
    """Return what fewer partitions than the plan's do to the same pods, all of them there all day."""
    plan = plan_of(slides)
    most = plan.services["tiler"].most
    rows = [["partitions", "for each of " + str(most) + " tilers", "p50 / p95 / p99", "most waiting"]]
    for partitions in sorted({12, most, 3 * most // 2, 5 * most // 2, plan.partitions, 2 * plan.partitions}):
        result = simulate(day_of(plan, partitions=partitions, autoscaled=False))
        rows.append(
            [str(partitions), f"{partitions / most:.1f}", _percentiles(result), f"{result.most_waiting:,}"]
        )
    return rows


def down_table(slides: int = 100_000) -> Table:
    """Return what it costs to take one pod away a minute, as for a few pods."""
    plan = plan_of(slides)
    rows = [["scale-down", "tilers' pod hours", "busy", "p50 / p95 / p99"]]
    for name, most in (("one pod a minute", 1), ("one pod or 10 % a minute", 1_000)):
        result = simulate(day_of(plan, scaling=scalings_of(plan, most)))
        tiler = result.stations["tiler"]
        rows.append([name, f"{tiler.pod_hours:,.0f}", percent(tiler.utilisation), _percentiles(result)])
    return rows


def _percentiles(result: Result) -> str:
    return " / ".join(duration(result.draft_s(part)) for part in (50, 95, 99))
