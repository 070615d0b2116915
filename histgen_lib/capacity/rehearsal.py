"""A plan's own day, to be simulated: its demand, its pods, the chart's autoscaler, and what may go wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from histgen_lib.capacity.demand import DAY_S, Demand, partitions_of
from histgen_lib.capacity.hpa import Policy, Rules
from histgen_lib.capacity.planner import (
    SURGE,
    GpuPlan,
    Plan,
    gpu_share,
    own_seconds,
)
from histgen_lib.capacity.scaled_object import Fallback, Scaling
from histgen_lib.capacity.simulation.day import Day, Gpus, Trouble, Work
from histgen_lib.capacity.simulation.fleet import Pods
from histgen_lib.capacity.simulation.station import Patience
from histgen_lib.capacity.triggers import KafkaRule

RULE = KafkaRule(lag_threshold=1, limit_to_partitions_with_lag=True)
DOWN_WINDOW_S, DOWN_EVERY_S, DOWN_PODS = 300, 60, 1
POLLING_S, COOLDOWN_S = 15, 300
"""What the chart sets (helm/histgen/values.yaml, autoscaling)."""
MANY, DOWN_PERCENT = 20, 10
"""With more pods than that, a pod a minute would take hours to scale down: then so many percent a minute."""


def scaling_of(most: int, *, rule_for: int | None = None) -> Scaling:
    """Return the numbers of a worker's ScaledObject; `rule_for`: scale down as with another `most`."""
    return Scaling(
        RULE,
        least=1,
        most=most,
        polling_s=POLLING_S,
        cooldown_s=COOLDOWN_S,
        fallback=Fallback(3, 1, "currentReplicasIfHigher"),
        down=Rules(DOWN_WINDOW_S, scale_down(rule_for or most)),
    )


def scalings_of(plan: Plan, most: int | None = None) -> dict[str, Scaling]:
    """Return those of all services: all scale down as suits the one with the most pods, or `most`."""
    most = most or max(service.most for service in plan.services.values())
    return {name: scaling_of(service.most, rule_for=most) for name, service in plan.services.items()}


def scale_down(most: int) -> tuple[Policy, ...]:
    """Return how fast pods may be taken away."""
    one = Policy("Pods", DOWN_PODS, DOWN_EVERY_S)
    return (one, Policy("Percent", DOWN_PERCENT, DOWN_EVERY_S)) if most > MANY else (one,)


def day_of(
    plan: Plan,
    *,
    seed: int = 0,
    autoscaled: bool = True,
    troubles: Sequence[Trouble] = (),
    fails: float = 0.0,
    grace_s: float = 1800.0,
    demand: Demand | None = None,
    partitions: int | None = None,
    scaling: Mapping[str, Scaling] | None = None,
) -> Day:
    """Return the plan's day. `fails`: share of attempts that crash. Not `autoscaled`: all pods, always.

    `demand`, `partitions`, `scaling`: others than the plan is made for.
    """
    demand, gpus, partitions = demand or plan.demand, plan.gpus, partitions or plan.partitions
    rules = scaling or scalings_of(plan)
    tiles = demand.tiles_of(seed)
    seconds, on_gpu = own_seconds(tiles, plan.rates, gpus, seed)
    where = partitions_of(demand.slides_per_day, partitions)
    works = {
        name: Work(
            seconds=seconds[name],
            where=where,
            partitions=partitions,
            pods=Pods(
                replicas=1 if autoscaled else service.most,
                start_s=plan.start_s,
                lost_s=plan.assumed.lost_s,
                surge=SURGE,
                scaling=rules[name] if autoscaled else None,
            ),
            patience=Patience(fails=fails, grace_s=grace_s),
            on_gpu=on_gpu.get(name, np.empty(0)),
            gpu_share=gpu_share(name, plan.rates, gpus) if gpus else 1.0,
        )
        for name, service in plan.services.items()
    }
    return Day(demand.arrivals(seed), works, _gpus(plan, gpus), troubles, seed, DAY_S)


def _gpus(plan: Plan, gpus: GpuPlan | None) -> Gpus | None:
    if gpus is None:
        return None
    return Gpus(
        count=gpus.most,
        start_s=plan.assumed.gpu_pod_s,
        lost_s=plan.assumed.lost_s,
    )
