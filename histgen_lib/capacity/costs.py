"""What a plan takes besides pods: storage, network, hours; and which of it costs most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from histgen_lib.capacity.planner import Plan

MONTHS, RETENTION_DAYS, REPLICAS = 12, 90, 3
"""How long objects count as kept; how long Kafka keeps events here, and how often (the chart's defaults)."""
UNITS = {"core-hour": "core hours", "gpu-hour": "GPU hours", "gib-month": "GiB months of storage"}


@dataclass(frozen=True)
class Storage:
    """Bytes that a day adds to the store, by kind, and what the broker holds at most."""

    per_day: Mapping[str, float]
    broker: float

    @property
    def day(self) -> float:
        """All kinds together."""
        return sum(self.per_day.values())


def storage_of(plan: Plan) -> Storage:
    """Return the bytes of a day's slides. The slides themselves stay where scanners put them."""
    sizes, slides = plan.rates.sizes, plan.demand.slides_per_day
    per_slide = {
        "bags": sizes.bag + sizes.bag_tile * plan.demand.tiles,
        "thumbnails": sizes.thumbnail,
        "reports": sizes.report,
        "records": sizes.records,
    }
    broker = sizes.events * slides * RETENTION_DAYS * REPLICAS
    return Storage({kind: size * slides for kind, size in per_slide.items()}, broker)


def network_of(plan: Plan) -> dict[str, float]:
    """Return bytes a second in the busiest hour, by the way they go."""
    sizes, per_s, tiles = plan.rates.sizes, plan.demand.peak_per_s, plan.demand.tiles
    ways = {
        "slides to tilers": per_s * tiles * sizes.slide_tile,
        "to the store": per_s * storage_of(plan).day / plan.demand.slides_per_day,
        "events": per_s * sizes.events * REPLICAS,
    }
    if plan.gpus is not None:
        ways["tiles to Triton"] = per_s * tiles * sizes.tile_px**2 * 3
    return ways


def amounts_of(plan: Plan, pod_hours: float | None = None) -> dict[str, float]:
    """Return what a day takes of each thing that has a price; a day's objects are kept for a year.

    `pod_hours`: those of a simulated day; without one, all pods run all day.
    """
    pods = sum(service.most for service in plan.services.values())
    return {
        "core-hour": pods * 24 if pod_hours is None else pod_hours,
        "gpu-hour": plan.gpus.most * 24 if plan.gpus else 0.0,
        "gib-month": storage_of(plan).day / 2**30 * MONTHS,
    }


def costs_of(plan: Plan, prices: Mapping[str, float], pod_hours: float | None = None) -> dict[str, float]:
    """Return the cost of a day for each thing that has a price, the dearest first."""
    amounts = amounts_of(plan, pod_hours)
    costs = {name: amounts[name] * price for name, price in prices.items()}
    return dict(sorted(costs.items(), key=lambda item: -item[1]))


def drivers(plan: Plan) -> list[str]:
    """Say what the plan's size comes from."""
    busy = {name: service.busy for name, service in plan.services.items()}
    most = max(busy, key=lambda name: busy[name])
    share = busy[most] / sum(busy.values())
    rates, tiles = plan.rates.tiler, plan.demand.tiles
    found = [f"{100 * share:.0f} % of the core seconds are the {most}'s"]
    if plan.gpus is None:
        encode = rates.encode_s * tiles / (rates.slide_s + (rates.read_s + rates.encode_s) * tiles)
        found.append(f"{100 * encode:.0f} % of a tiler's time is encoding tiles, which a GPU would take over")
    ways = network_of(plan)
    widest = max(ways, key=lambda way: ways[way])
    found.append(f"most of the network carries {widest}")
    per_day = storage_of(plan).per_day
    largest = max(per_day, key=lambda kind: per_day[kind])
    found.append(f"most of the storage is {largest}")
    return found
