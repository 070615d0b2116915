"""What a plan writes fits the chart, and a simulated day scales by the numbers that the chart renders."""

from __future__ import annotations

import pytest
from chart_rendering import merged, render, values_of

from histgen_lib.capacity.demand import Demand
from histgen_lib.capacity.hpa import Rules
from histgen_lib.capacity.planner import make_plan
from histgen_lib.capacity.rates import load_rates
from histgen_lib.capacity.rehearsal import scalings_of
from histgen_lib.capacity.scaled_object import scaling_of
from histgen_lib.capacity.values import values_of as values_of_plan

RATES = load_rates().assuming("made-up", 2_000.0, 0.3)


def manifests_of(example: str, plan) -> list[dict]:
    return render(merged(values_of(example), values_of_plan(plan)))


def scalers(example: str, plan) -> dict[str, dict]:
    """Return the workers' ScaledObjects by service, of an example with the plan's values laid over it."""
    found = {}
    for manifest in manifests_of(example, plan):
        if manifest["kind"] == "ScaledObject" and manifest["spec"]["triggers"][0]["type"] == "kafka":
            found[manifest["spec"]["scaleTargetRef"]["name"].removeprefix("lab-")] = manifest
    return {name.rpartition("-")[2]: manifest for name, manifest in found.items()}


@pytest.mark.parametrize("slides", [1_000, 20_000, 1_000_000])
@pytest.mark.parametrize("example", ["hospital", "cloud"])
def test_the_chart_takes_a_plans_values_and_scales_as_the_simulation_does(example, slides):
    plan = make_plan(Demand(slides, 4_000), RATES, gpu="made-up")
    found = scalers(example, plan)

    assert set(found) == {*plan.services, "librarian"}, "which the plan leaves as it is"
    for name in plan.services:
        chart, ours = scaling_of(found[name]), scalings_of(plan)[name]
        assert (chart.least, chart.most) == (ours.least, ours.most)
        assert chart.rule.lag_threshold == ours.rule.lag_threshold
        assert chart.rule.limit_to_partitions_with_lag == ours.rule.limit_to_partitions_with_lag
        assert (chart.polling_s, chart.cooldown_s) == (ours.polling_s, ours.cooldown_s)
        assert rules(chart.up) == rules(ours.up)
        assert rules(chart.down) == rules(ours.down)


@pytest.mark.parametrize("slides", [1_000, 100_000])
@pytest.mark.parametrize("example", ["hospital", "cloud"])
def test_the_chart_has_all_planned_gpus_serve(example, slides):
    """Also where Triton is autoscaled: too few requests wait at a GPU for all that were planned to come."""
    plan = make_plan(Demand(slides, 4_000), RATES, gpu="made-up")
    triton = {
        manifest["kind"]: manifest["spec"]
        for manifest in manifests_of(example, plan)
        if manifest["metadata"]["name"] == "lab-histgen-triton" and "spec" in manifest
    }
    scaling = triton["ScaledObject"]

    assert plan.gpus.most >= 2
    assert (scaling["minReplicaCount"], scaling["maxReplicaCount"]) == (plan.gpus.most, plan.gpus.most)


def rules(rules: Rules) -> tuple:
    """Return what a direction's rules say, in whatever order."""
    return rules.window_s, rules.select, frozenset(rules.policies)
