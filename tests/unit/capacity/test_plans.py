"""A plan is enough for its demand, says what it assumes, and fits the chart."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from chart_rendering import merged

from histgen_lib.capacity.costs import costs_of, network_of, storage_of
from histgen_lib.capacity.demand import PROFILES, Demand, hours_of
from histgen_lib.capacity.outline import assumptions_of, json_of, predicted_of, simulated_of
from histgen_lib.capacity.planner import UNEVEN_MOST, Assumptions, Goal, make_plan
from histgen_lib.capacity.queueing import Group, mg1_wait_s
from histgen_lib.capacity.rates import Rates, load_rates
from histgen_lib.capacity.rehearsal import day_of
from histgen_lib.capacity.simulation.day import simulate
from histgen_lib.capacity.values import values_of, values_text
from histgen_lib.errors import InvalidInputError

RATES = load_rates()
GPU = RATES.assuming("made-up", 2_000.0, 0.3)


@pytest.mark.parametrize("slides", [1, 100, 3_000, 50_000])
@pytest.mark.parametrize("gpu", ["cpu", "made-up"])
def test_a_plan_keeps_its_goal_and_nobody_too_busy(slides, gpu):
    plan = make_plan(Demand(slides, 4_000), GPU, gpu=gpu, goal=Goal(minutes=10))

    assert plan.draft_s[99.0] <= 600
    for service in plan.services.values():
        assert service.load <= UNEVEN_MOST
        assert service.spare >= 1
        assert service.load_less < 1
        assert plan.partitions >= 4 * service.most or plan.partitions == 12
    assert (plan.gpus is None) == (gpu == "cpu")


def test_twice_the_slides_take_about_twice_the_pods():
    one, two = (make_plan(Demand(slides, 4_000), RATES).services["tiler"] for slides in (20_000, 40_000))

    assert two.needed == pytest.approx(2 * one.needed, rel=0.1)


def test_a_tighter_goal_takes_more_pods():
    demand = Demand(5_000, 4_000)
    loose = make_plan(demand, RATES, goal=Goal(minutes=15))
    tight = make_plan(demand, RATES, goal=Goal(minutes=3))

    assert tight.services["tiler"].needed > loose.services["tiler"].needed
    assert tight.draft_s[99.0] <= 180 < loose.draft_s[99.0]


def test_a_higher_availability_takes_more_spares():
    plans = [
        make_plan(Demand(50_000, 4_000), RATES, goal=Goal(availability=share)) for share in (0.999, 0.9999999)
    ]

    assert plans[0].services["tiler"].spare < plans[1].services["tiler"].spare


def test_a_goal_below_the_work_itself_is_refused():
    with pytest.raises(InvalidInputError, match="No number of pods helps") as refused:
        make_plan(Demand(10, 100_000), RATES, goal=Goal(minutes=1))

    assert refused.value.code == "plan-impossible"


@pytest.mark.parametrize(
    ("demand", "minutes", "said"),
    [
        (Demand(5_000_000, 20_000), 60, "It takes 33,939 tilers and spares"),
        (Demand(4_100_000, 4_000), 15, "5,648 tilers could do the work if it were shared out evenly"),
        (Demand(5_000_000, 4_500), 15, "7,733 tilers could do the work if it were shared out evenly"),
        (Demand(3_400_000, 4_000), 2.05, "More and more tilers"),
    ],
)
def test_more_workers_than_partitions_are_refused_with_the_reason(demand, minutes, said):
    with pytest.raises(InvalidInputError) as refused:
        make_plan(demand, RATES, goal=Goal(minutes=minutes))

    assert refused.value.code == "plan-impossible"
    assert said in refused.value.message


def test_plans_end_where_docs_capacity_md_says():
    """With two partitions at 75 %: 3,750 busy workers, of 5,357 that are to be busy for 70 %."""
    last = make_plan(Demand(3_885_000, 4_000), RATES)

    assert last.partitions == 10_000
    assert 5_340 < last.services["tiler"].needed <= 5_357
    with pytest.raises(InvalidInputError, match="shared out evenly"):
        make_plan(Demand(3_895_000, 4_000), RATES)


def test_an_update_waits_for_starts_but_not_for_jobs_that_are_finished_meanwhile():
    plan = make_plan(Demand(10_000, 4_000), RATES)
    tiler = plan.services["tiler"]

    assert plan.update_s("tiler") == pytest.approx(4 * plan.start_s + tiler.job_s)


def test_a_gpu_is_away_for_longer_than_a_worker_so_it_takes_more_spares():
    """An hour between failures, so that it shows."""
    often = Assumptions(node_days=1.0, gpu_pod_s=3_600.0)
    spares = [
        make_plan(Demand(200_000, 4_000), GPU, gpu="made-up", assumed=assumed).gpus.spare
        for assumed in (replace(often, gpu_pod_s=often.pod_s), often)
    ]

    assert spares[0] < spares[1]


@pytest.mark.parametrize("percentile", [80.0, 99.0, 99.9])
def test_a_plan_names_the_percentile_of_its_goal(percentile):
    plan = make_plan(Demand(1_000, 500), RATES, goal=Goal(percentile=percentile))
    result = simulate(day_of(plan))
    shown = json_of(plan, {}, result)

    for said in (predicted_of(plan), dict(simulated_of(plan, result))["scan to draft"]):
        assert said.count(f"p{percentile:g} ") == 1
    assert list(shown["draft_s"]) == list(shown["simulated"]["draft_s"])
    assert f"p{percentile:g}" in shown["draft_s"]


def test_a_plan_says_that_it_counts_on_nodes_of_their_own():
    assert "one pod of a kind" in "\n".join(assumptions_of(make_plan(Demand(100, 4_000), RATES)))


def test_an_unmeasured_gpu_is_refused_and_a_stated_rate_is_called_an_assumption():
    with pytest.raises(InvalidInputError) as refused:
        make_plan(Demand(100, 4_000), RATES, gpu="h100")
    said = "\n".join(assumptions_of(make_plan(Demand(100, 4_000), GPU, gpu="made-up")))

    assert refused.value.code == "gpu-unmeasured"
    assert "--tiles-per-second" in refused.value.hint
    assert "ASSUMED, NOT MEASURED" in said
    assert RATES.gpus == {}, "figures of a GPU need a source: docs/capacity.md says that there are none"


def test_a_plans_prediction_is_what_its_busiest_hour_is_in_the_simulation():
    """A day that is all busiest hour, with the pods that the goal needs and without spares."""
    plan = make_plan(Demand(30_000, 1_000, hours=PROFILES["flat"]), RATES)
    pods = {name: replace(service, spare=0) for name, service in plan.services.items()}
    result = simulate(day_of(replace(plan, services=pods), autoscaled=False))

    for percent in (50, 95, 99):
        assert result.draft_s(percent) == pytest.approx(plan.draft_s[percent], rel=0.1), percent


@pytest.mark.parametrize("tiles_per_second", [100.0, 2_000.0, 20_000.0])
def test_tilers_wait_for_one_gpu_each_and_read_on_one_core_each(tiles_per_second):
    """A tiler holds on to one Triton: other GPUs do not make it faster."""
    demand = Demand(20_000, 4_000)
    plan = make_plan(demand, RATES.assuming("made-up", tiles_per_second, None), gpu="made-up")
    tiles_per_s = demand.peak_per_s * demand.tiles
    tiler = plan.services["tiler"]

    assert tiler.job_s >= 4_000 / min(tiles_per_second, 1 / RATES.tiler.read_s)
    assert tiler.needed >= tiles_per_s / tiles_per_second
    assert plan.gpus.needed >= tiles_per_s / tiles_per_second


@pytest.mark.parametrize("report_s", [4.0, 30.0])
def test_reports_and_tiles_share_the_gpus_in_a_plan_as_in_its_simulation(report_s):
    """All day is the busiest hour, and there are the pods and GPUs that the goal needs, without spares.

    A plan does not count on it that few workers crowd the GPUs less than many would.
    """
    demand = Demand(30_000, 4_000, hours=PROFILES["flat"])
    plan = make_plan(demand, RATES.assuming("made-up", 2_000.0, report_s), gpu="made-up")
    pods = {name: replace(service, spare=0) for name, service in plan.services.items()}
    bare = replace(plan, services=pods, gpus=replace(plan.gpus, spare=0))
    result = simulate(day_of(bare, autoscaled=False))

    gpu_s = 30_000 * (4_000 / 2_000 + report_s)
    assert result.gpu_busy_hours * 3600 == pytest.approx(gpu_s, rel=0.02)
    for name, service in plan.services.items():
        station = result.stations[name]
        job_s = (station.done_s - station.began_s).mean()
        assert 0.75 * service.job_s < job_s < 1.02 * service.job_s, name


def test_the_worker_with_one_partition_more_decides():
    uneven, even = Group(3, 4, 1.0, 0.0), Group(3, 12, 1.0, 0.0)

    assert uneven.load(1.5) == pytest.approx(0.75)
    assert even.load(1.5) == pytest.approx(0.5)
    assert even.wait_s(1.5) == pytest.approx(mg1_wait_s(0.5, 1.0, 0.0))


def test_values_name_what_the_plan_counts():
    plan = make_plan(Demand(50_000, 4_000), GPU, gpu="made-up")
    values = values_of(plan)

    assert values["kafka"]["partitions"] == plan.partitions
    assert values["services"]["tiler"]["maxReplicas"] == plan.services["tiler"].most
    assert values["triton"]["replicas"] == plan.gpus.most
    assert set(values["triton"]["autoscaling"].values()) == {plan.gpus.most}
    assert values["inference"]["mode"] == "triton"
    assert yaml.safe_load(values_text(plan, "histgen plan")) == values


def test_storage_and_network_follow_the_slides():
    small, large = (make_plan(Demand(slides, 4_000), GPU, gpu="made-up") for slides in (1_000, 10_000))

    assert storage_of(large).day == pytest.approx(10 * storage_of(small).day)
    tiles_per_s = small.demand.peak_per_s * 4_000
    assert network_of(small)["tiles to Triton"] == pytest.approx(tiles_per_s * 256 * 256 * 3)


def test_the_dearest_comes_first():
    plan = make_plan(Demand(1_000, 4_000), GPU, gpu="made-up")
    costs = costs_of(plan, {"core-hour": 0.01, "gpu-hour": 3.0})

    assert list(costs) == ["gpu-hour", "core-hour"]
    assert costs["gpu-hour"] == pytest.approx(plan.gpus.most * 24 * 3.0)


@pytest.mark.parametrize("profile", list(PROFILES))
def test_a_days_slides_come_when_the_profile_says(profile):
    demand = Demand(20_000, 4_000, hours=PROFILES[profile])
    arrivals = demand.arrivals(0)
    came = np.histogram(arrivals / 3600, bins=np.arange(25))[0]

    assert len(arrivals) == 20_000
    assert (np.diff(arrivals) >= 0).all()
    assert came.max() / came.mean() == pytest.approx(demand.peak, rel=0.1)
    assert (came[np.array(PROFILES[profile]) == 0] == 0).all()


def test_slides_have_the_mean_and_the_spread_that_was_stated():
    tiles = Demand(50_000, 4_000, spread=0.6).tiles_of(0)

    assert tiles.mean() == pytest.approx(4_000, rel=0.02)
    assert tiles.std() / tiles.mean() == pytest.approx(0.6, rel=0.05)


def test_a_stated_peak_is_the_peak_and_an_impossible_one_is_refused():
    assert Demand(100, 1, hours=hours_of("flat", 4.0)).peak == pytest.approx(4.0)
    for profile, peak in (("flat", 13.0), ("flat", 0.5), ("lunar", None)):
        with pytest.raises(InvalidInputError) as refused:
            hours_of(profile, peak)
        assert refused.value.code == "plan-profile"


def test_rates_are_read_as_they_are_written(tmp_path):
    path = tmp_path / "rates.json"
    path.write_text(json.dumps(GPU.to_json()))

    assert load_rates(path) == GPU
    assert isinstance(load_rates(path), Rates)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', '{"format": 1, "measured": {}}'],
)
def test_what_holds_no_rates_is_refused(tmp_path, text):
    path = tmp_path / "rates.json"
    path.write_text(text)

    with pytest.raises(InvalidInputError) as refused:
        load_rates(path)
    assert refused.value.code == "rates-unreadable"


@pytest.mark.parametrize("bad", [-1, "fast", True, float("inf"), None])
def test_a_rate_is_a_number_of_0_or_more(tmp_path, bad):
    path, found = tmp_path / "rates.json", RATES.to_json()
    found["tiler"]["slide_s"] = bad
    path.write_text(json.dumps(found))

    with pytest.raises(InvalidInputError) as refused:
        load_rates(path)
    assert refused.value.code == "rates-unreadable"


@pytest.mark.parametrize(
    "zeros",
    [
        {"gpus": {"made-up": {"tiles_per_second": 0.0}}},
        {"gpus": {"made-up": {"report_s": 0.0}}, "reporter": {"model_s": RATES.reporter.report_s}},
        {"reporter": {"report_s": 0.0, "model_s": 0.0, "tile_s": 0.0}},
        {"reporter": {"model_s": 2 * RATES.reporter.report_s}},
        {"tiler": {"slide_s": 0.0, "read_s": 0.0, "encode_s": 0.0}},
    ],
)
def test_no_job_takes_no_time(tmp_path, zeros):
    path = tmp_path / "rates.json"
    path.write_text(json.dumps(merged(GPU.to_json(), zeros)))

    with pytest.raises(InvalidInputError) as refused:
        load_rates(path)
    assert refused.value.code == "rates-unreadable"
