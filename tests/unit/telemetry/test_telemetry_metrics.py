"""Metrics have names, help and documentation, and count what jobs measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from histgen_lib.telemetry import add_measures, exposition, metrics, verification

DOCUMENTED = (*metrics.ALL, *verification.VERIFICATION)
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


def _name(metric) -> str:
    return metric._name + ("_total" if metric._type == "counter" else "")


def _value(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, labels)


def test_the_exposition_names_every_metric_with_help():
    text = exposition()[0].decode()
    assert [name for name in map(_name, metrics.ALL) if f"# HELP {name} " not in text] == []


@pytest.mark.parametrize("metric", DOCUMENTED, ids=_name)
def test_the_document_describes_every_metric(metric):
    labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "–"
    row = f"| `{_name(metric)}` | {metric._type} | {labels} | {metric._documentation} |"
    assert row in DOCUMENT.read_text(encoding="utf-8").splitlines()


def test_the_document_names_no_other_metric():
    rows = [
        line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `histgen_")
    ]
    assert len(rows) == len(DOCUMENTED)


def test_no_label_can_be_a_slides():
    allowed = {"worker", "stage", "code", "outcome", "via", "kind", "part", "why", "state", "partition"}
    allowed |= {"dependency", "volume", "certificate", "model", "network", "name", "digest", "engine"}
    allowed |= {"version", "revision", "python", "route", "status", "task"}
    assert {label for metric in DOCUMENTED for label in metric._labelnames} <= allowed


def test_measures_of_a_job_are_added_to_the_metrics_of_their_names():
    add_measures({"stage:read": 2.0, "histgen_tiles_read_total": 3}, worker="m1")
    add_measures({"stage:read": 1.0, "histgen_tiles_read_total": 4}, worker="m1")
    assert _value("histgen_tiles_read_total", worker="m1") == 7
    assert _value("histgen_stage_seconds_sum", worker="m1", stage="read") == 3


def test_a_meaningless_measure_is_ignored():
    add_measures({"nothing": 1, "histgen_tiles_read_total": float("nan"), "stage:x": -1}, worker="m2")
    assert _value("histgen_tiles_read_total", worker="m2") is None
    assert _value("histgen_stage_seconds_sum", worker="m2", stage="x") is None


def test_a_worker_that_has_done_nothing_shows_zeros():
    metrics.show_worker("m3")
    assert _value("histgen_jobs_total", worker="m3", outcome="done") == 0
    assert _value("histgen_scan_to_draft_seconds_count", worker="m3") == 0
