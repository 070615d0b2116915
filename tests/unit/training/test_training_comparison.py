"""The page of the comparison: every figure with its interval, every inequality noted."""

from __future__ import annotations

import dataclasses
import json
import math

from histgen_lib.training.report.comparison import Figure, Row, render, to_dict

ORIGIN = {"seed": 7, "epochs": 9, "batch_size": 8, "slides": 100}
FAIR = Row("published", {"Grade": Figure(0.5, 0.4, 0.6, 30)}, 60, 1234567, 8, 90.0, ORIGIN)


def _page(*rows: Row) -> str:
    return render(rows, command="histgen compare", facts={"Slides scored": "60"})


def test_shares_are_shown_in_percent_and_scores_as_they_are() -> None:
    assert Figure(0.933, 0.85, 0.983).cell() == "93.3 % (85.0 to 98.3)"
    assert Figure(0.87654, share=False).cell() == "0.877"
    assert Figure(math.nan).cell() == "–"


def test_the_page_has_command_figures_effort_and_size() -> None:
    page = _page(FAIR, dataclasses.replace(FAIR, variant="corrected", figures={}))
    assert "```sh\nhistgen compare\n```" in page
    assert "- Slides scored: 60" in page
    assert "|  | published | corrected |" in page
    assert "| Grade (n = 30) | 50.0 % (40.0 to 60.0) | – |" in page
    assert "| Parameters | 1,234,567 | 1,234,567 |" in page
    assert "| Training minutes | 1.5 | 1.5 |" in page
    assert "budgets" not in page


def test_unequal_budgets_and_pretrained_models_are_noted() -> None:
    longer = dataclasses.replace(FAIR, variant="corrected", origin=ORIGIN | {"epochs": 40}, pretrained=True)
    page = _page(FAIR, longer)
    assert "Trained beforehand, not by this command: corrected." in page
    assert "The budgets (epochs, batch size, slides) are not the same" in page


def test_unknown_effort_is_left_blank() -> None:
    page = _page(dataclasses.replace(FAIR, epochs=None, seconds=None, origin={}))
    assert "| Training minutes | – |" in page
    assert "| Seed | – |" in page


def test_cells_state_their_counts_if_columns_differ() -> None:
    fewer = dataclasses.replace(FAIR, variant="corrected", figures={"Grade": Figure(1.0, count=2)})
    assert "| Grade | 50.0 % (40.0 to 60.0), n = 30 | 100.0 %, n = 2 |" in _page(FAIR, fewer)


def test_the_json_has_no_nan() -> None:
    found = to_dict([dataclasses.replace(FAIR, figures={"Grade": Figure(math.nan, count=3)})])
    assert json.loads(json.dumps(found, allow_nan=False))["published"]["figures"]["Grade"]["value"] is None
