"""`histgen plan`: what it prints, writes and refuses."""

from __future__ import annotations

import json

import pytest
import tiny_model
import yaml

from histgen_lib.models import SHIPPED_MODEL


def test_a_plan_says_what_it_takes_and_where_its_figures_come_from(histgen):
    code, printed, _ = histgen("plan", "--slides-per-day", 1000, "--tiles-per-slide", 4000)

    assert code == 0
    for said in ("tiler (one core)", "partitions of each topic", "scan to draft", "AMD EPYC"):
        assert said in printed


def test_a_plan_as_json_has_its_simulated_day(histgen):
    code, printed, _ = histgen("plan", "-n", 200, "-m", 500, "--simulate", "--seed", 3, "--json")
    plan = json.loads(printed)

    assert code == 0
    assert plan["simulated"]["drafts"] == 200
    assert plan["services"]["tiler"]["most"] == plan["values"]["services"]["tiler"]["maxReplicas"]
    assert plan["says"]


def test_a_simulated_day_is_printed_too(histgen):
    code, printed, _ = histgen("plan", "-n", 200, "-m", 500, "--simulate")

    assert code == 0
    assert "200: 200 drafts, 0 dead letters" in printed


def test_a_simulated_day_costs_a_whole_day(histgen):
    """Two services of one pod at least, also after the last slide."""
    code, printed, _ = histgen("plan", "-n", 100, "--simulate", "--price", "core-hour=1", "--json")
    plan = json.loads(printed)

    assert code == 0
    assert 48 <= plan["amounts_per_day"]["core-hour"] < 60
    assert plan["costs_per_day"]["core-hour"] == plan["amounts_per_day"]["core-hour"]


def test_a_stated_rate_is_printed_as_assumed(histgen):
    code, printed, _ = histgen("plan", "--gpu", "l4", "--tiles-per-second", 1500)

    assert code == 0
    assert "l4: 1,500 tiles/s" in printed
    assert "ASSUMED, NOT MEASURED" in printed


def test_a_gpu_without_figures_is_refused(histgen):
    code, _, said = histgen("plan", "--gpu", "h100")

    assert code == 65
    assert "error[gpu-unmeasured]" in said


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (["--tiles-per-second", 100], "--gpu"),
        (["--report-seconds", 0.5], "--tiles-per-second"),
        (["--gpu", "l4", "--report-seconds", 0.5], "--tiles-per-second"),
        (["--rates", "a.json", "--measure", "b.json"], "leave one"),
        (["--model", "folder"], "--measure"),
        (["--slide", "a.tif"], "--measure"),
    ],
)
def test_options_without_effect_are_refused(histgen, tmp_path, monkeypatch, options, remedy):
    monkeypatch.chdir(tmp_path)
    code, _, said = histgen("plan", *options)

    assert code == 65
    assert "error[plan-options]" in said
    assert remedy in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "option",
    [
        "--tiles-per-slide",
        "--peak",
        "--target-minutes",
        "--percentile",
        "--availability",
        "--tiles-per-second",
        "--report-seconds",
    ],
)
def test_what_is_no_finite_number_is_wrong_usage(histgen, option, number):
    code, _, said = histgen("plan", "--gpu", "l4", "--tiles-per-second", 100, f"{option}={number}")

    assert code == 2
    assert "error[usage]" in said
    assert option in said


@pytest.mark.parametrize("price", ["gpu-hour", "gpu-hour=free", "day=3", "core-hour=-1", "core-hour=nan"])
def test_what_is_no_price_is_refused(histgen, price):
    code, _, said = histgen("plan", "--price", price)

    assert code == 65
    assert "error[plan-price]" in said


def test_prices_make_costs(histgen):
    code, printed, _ = histgen("plan", "--price", "core-hour=0.05", "--price", "gib-month=0.02", "--json")

    assert code == 0
    assert set(json.loads(printed)["costs_per_day"]) == {"core-hour", "gib-month"}


def test_values_are_written_for_the_chart(histgen, tmp_path):
    path = tmp_path / "capacity.yaml"
    code, _, _ = histgen("plan", "-n", 50000, "--values", path)
    values = yaml.safe_load(path.read_text())

    assert code == 0
    assert path.read_text().startswith("# Written by: histgen")
    assert set(values) == {"kafka", "inference", "services", "autoscaling"}


def test_this_machine_is_measured_and_its_rates_make_a_plan(histgen, tmp_path):
    """`histgen plan --measure rates.json`, then `histgen plan --rates rates.json`.

    Encoding is what the job takes beyond reading: the shipped encoder takes far longer than reading does.
    """
    slides = [tiny_model.write_slide(tmp_path / f"{px}.tif", side_px=px, seed=px) for px in (640, 1280)]
    named = [part for path in slides for part in ("--slide", path)]
    file = tmp_path / "rates.json"

    code, _, said = histgen("plan", "--measure", file, "--model", SHIPPED_MODEL, *named)
    found = json.loads(file.read_text())

    assert code == 0, said
    assert found["measured"]["command"].startswith("histgen")
    assert found["tiler"]["encode_s"] > 0
    assert found["reporter"]["report_s"] > 0
    assert found["sizes"]["bag_tile"] > 0
    assert found["start_s"] > 0
    assert histgen("plan", "--rates", file, "--slides-per-day", 5000)[0] == 0


def test_a_file_without_rates_is_refused(histgen, tmp_path):
    (tmp_path / "rates.json").write_text("{}")
    code, _, said = histgen("plan", "--rates", tmp_path / "rates.json")

    assert code == 65
    assert "error[rates-unreadable]" in said
