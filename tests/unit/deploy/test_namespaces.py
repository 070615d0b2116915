"""Queries of runbooks and dashboards find what they ask for, also where series have a namespace."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from docs_blocks import runbook_queries
from monitoring_files import DASHBOARDS, RULES, metrics_in, promtool

CHOSEN = {"$namespace": ".*", "$worker": ".*", "$model": ".*"}
EXPRESSIONS = [rule["expr"] for rules in RULES.values() for rule in rules] + [
    target["expr"]
    for board in DASHBOARDS.values()
    for panel in board["panels"]
    for target in panel.get("targets", ())
]
SLIDES = {
    'histgen_slides{state="scanned", namespace="a", instance="1"}': "100x20",
    'histgen_slides{state="scanned", namespace="a", instance="2"}': "100x20",
    'histgen_slides{state="scanned", namespace="b", instance="3"}': "40x20",
}
PROCESSES = {
    f'up{{job="histgen", service="{name}", namespace="a", instance="{name}"}}': "1x20"
    for name in ("gateway", "supervisor", "tiler")
}


def evaluate(folder, series: dict[str, str], query: str, samples: list[dict]) -> None:
    """Have promtool evaluate a query after ten minutes."""
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": query, "eval_time": "10m", "exp_samples": samples}],
    }
    (folder / "case.yml").write_text(yaml.safe_dump({"tests": [case]}))
    promtool("test", "rules", folder / "case.yml")


def series_of(name: str) -> str:
    more = "" if ":" in name else ', job="histgen-triton", instance="i", model="m"'
    return f'{{__name__={json.dumps(name)}, namespace="h"{more}}}'


@pytest.mark.parametrize("query", [one for one in runbook_queries() if re.search(r" [/-] [a-z]", one)])
def test_a_runbook_s_query_of_two_series_finds_both(tmp_path, query):
    series = {series_of(name): "0+1x20" for name in metrics_in(query)}

    evaluate(tmp_path, series, f"sgn(count({query}))", [{"value": 1, "labels": "{}"}])


@pytest.mark.parametrize(
    ("board", "title", "series", "sample"),
    [
        ("histgen-pipeline", "Unfinished slides", SLIDES, {"value": 140, "labels": "{}"}),
        ("histgen-pipeline", "Slides by state", SLIDES, {"value": 140, "labels": '{state="scanned"}'}),
        ("histgen-tiler", "Processes", PROCESSES, {"value": 1, "labels": "{}"}),
    ],
)
def test_a_panel_adds_up_namespaces_and_nothing_else(tmp_path, board, title, series, sample):
    (panel,) = [one for one in DASHBOARDS[board]["panels"] if one["title"] == title]
    (query,) = [target["expr"] for target in panel["targets"]]
    for variable, chosen in CHOSEN.items():
        query = query.replace(variable, chosen)

    evaluate(tmp_path, series, query, [sample])


def test_partitions_of_two_namespaces_are_two_lines():
    (panel,) = [
        one for one in DASHBOARDS["histgen-broker"]["panels"] if one["title"] == "Backlog by partition"
    ]

    assert panel["targets"][0]["expr"].startswith("max by (namespace, worker, partition)")


def test_series_that_others_serve_too_are_asked_of_our_targets_only():
    found = [one for text in EXPRESSIONS for one in re.findall(r"\b(nv_\w+|up|process_\w+)(\{[^}]*\})", text)]

    assert found
    assert [one for one in found if not re.search('job=~?"histgen', one[1])] == []
    assert [one for one in found if one[0].startswith("nv_") and 'job="histgen-triton"' not in one[1]] == []
