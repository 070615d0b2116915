"""The part of the chart's values that a plan decides (helm/histgen/values.yaml).

The chart asks for one core for each worker by itself: that is what rates are measured on.
"""

from __future__ import annotations

import math
from typing import Any

import yaml  # type: ignore[import-untyped]

from histgen_lib.capacity.planner import SURGE, Plan
from histgen_lib.capacity.rehearsal import DOWN_WINDOW_S, scale_down


def values_of(plan: Plan) -> dict[str, Any]:
    """Return values for the chart, nothing that it has by itself.

    The planned GPUs serve all day, whether Triton is autoscaled or not: so they were planned and priced.
    """
    most = max(service.most for service in plan.services.values())
    values: dict[str, Any] = {
        "kafka": {"partitions": plan.partitions},
        "inference": {"mode": "onnx" if plan.gpus is None else "triton"},
        "services": {
            name: {
                "minReplicas": 1,
                "maxReplicas": service.most,
                "maxSurge": max(1, math.ceil(SURGE * service.most)),
            }
            for name, service in plan.services.items()
        },
        "autoscaling": {
            "enabled": True,
            "behavior": {
                "scaleDown": {
                    "stabilizationWindowSeconds": DOWN_WINDOW_S,
                    "selectPolicy": "Max",
                    "policies": [
                        {"type": rule.kind, "value": rule.value, "periodSeconds": int(rule.period_s)}
                        for rule in scale_down(most)
                    ],
                }
            },
        },
    }
    if plan.gpus is not None:
        gpus = plan.gpus.most
        values["triton"] = {"replicas": gpus, "autoscaling": {"minReplicas": gpus, "maxReplicas": gpus}}
    return values


def values_text(plan: Plan, command: str) -> str:
    """Return them as a file for `helm --values`."""
    text: str = yaml.safe_dump(values_of(plan), sort_keys=False)
    demand = plan.demand
    return (
        f"# Written by: {command}\n"
        f"# {demand.slides_per_day:,} slides a day of {demand.tiles:,.0f} tiles.\n{text}"
    )
