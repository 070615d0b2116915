"""The ScaledObjects that tests scale by: those of the chart, as Helm renders it."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

from chart_rendering import merged, of_kind, render, set_at, values_of

PARTITIONS = 12
"""The most tilers, and so the partitions, unless the values say otherwise."""


def tiler_object(**metadata: str) -> dict[str, Any]:
    """Return the manifest for the tiler of a small lab, with other metadata of its trigger where given."""
    found = deepcopy(scaled_objects("small-lab")["lab-histgen-tiler"])
    found["spec"]["triggers"][0]["metadata"] |= metadata
    return found


@cache
def scaled_objects(example: str) -> dict[str, Any]:
    """Return the manifests of an example of values by name; do not change them."""
    values = merged(values_of(example), set_at("autoscaling.enabled", True))
    return {found["metadata"]["name"]: found for found in of_kind(render(values), "ScaledObject")}
