"""The dashboards are what their code makes, and every panel says what it shows, in which unit, of what."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from monitoring_files import ALERTS, DASHBOARDS, FILES, ROOT, exists, metrics_in

VARIABLES = ("datasource", "namespace", "interval", "runbooks")
SECOND = {"histgen-triton": ["model"], "histgen-slo": []}
"""What else can be chosen; on the other dashboards, "worker"."""
BUILT_IN = {"__rate_interval", "__all"}
PANELS = [
    pytest.param(name, panel, id=f"{name}: {panel['title']}")
    for name, board in DASHBOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]


def test_what_is_checked_in_is_what_the_code_makes(tmp_path):
    subprocess.run([sys.executable, ROOT / "deploy" / "grafana" / "write.py", tmp_path], check=True)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}

    assert made == {path.name: path.read_text() for path in (FILES / "dashboards").glob("*.json")}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_has_a_stable_name_rows_and_what_can_be_chosen(name):
    board = DASHBOARDS[name]
    kinds = [panel["type"] for panel in board["panels"]]
    offered = [variable["name"] for variable in board["templating"]["list"]]
    used = set(re.findall(r"\$\{?(\w+)", str(board["panels"]) + str(board["templating"])))

    assert board["uid"] == name
    assert board["tags"] == ["histgen"]
    assert kinds[0] == "row"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert set(offered) == {*VARIABLES, *SECOND.get(name, ["worker"])}
    assert used - BUILT_IN == set(offered)
    for variable in board["templating"]["list"]:
        assert variable["label"], variable["name"]


@pytest.mark.parametrize(("name", "panel"), PANELS)
def test_a_panel_says_what_it_shows(name, panel):
    targets = panel["targets"]

    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    assert [target["refId"] for target in targets] == list("ABCDEFGH"[: len(targets)])
    for target in targets:
        assert target["legendFormat"]
        assert target["datasource"]["uid"] == "${datasource}"
        assert 'namespace=~"$namespace"' in target["expr"]


@pytest.mark.parametrize(("name", "panel"), PANELS)
def test_a_panel_asks_for_known_metrics_over_the_chosen_interval(name, panel):
    for target in panel["targets"]:
        unknown = {metric for metric in metrics_in(target["expr"]) if not exists(metric)}
        spans = set(re.findall(r"\[([^\]]+)\]", target["expr"]))

        assert unknown == set()
        assert spans <= {"$__rate_interval", "$interval", "30d"}


def test_panels_lead_to_the_runbooks_of_the_alerts():
    linked = {
        link["url"]
        for board in DASHBOARDS.values()
        for panel in board["panels"]
        for link in panel.get("links", ())
    }

    assert linked == {f"${{runbooks:raw}}/{rule['alert']}.md" for rule in ALERTS}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap_and_fill_no_more_than_the_width(name):
    taken = set()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells
