"""What was measured of a model's evidence decides which tiles are shown; small counts are not believed."""

from __future__ import annotations

import numpy as np
import pytest

from histgen_lib.errors import FatalError
from histgen_lib.evaluation.evidence import EvidenceCase, evidence_figures
from histgen_lib.pipeline.reliability import EvidenceFigures, wilson_low


@pytest.mark.parametrize(("hits", "lines"), [(1, 9), (9, 9), (41, 78), (107, 160)])
def test_the_lower_bound_is_that_of_wilsons_interval(hits, lines):
    """It is the share that is just 1.96 of its own standard errors below what was seen (Wilson 1927)."""
    low, seen = wilson_low(hits, lines), hits / lines

    assert 0 < low < seen
    assert (seen - low) ** 2 == pytest.approx(1.959964**2 * low * (1 - low) / lines)


def test_the_lower_bound_of_no_hits_is_zero():
    assert wilson_low(0, 9) == 0


def test_a_field_is_trusted_by_its_lower_bound_not_by_its_share():
    figures = EvidenceFigures({"necrosis": (3, 3), "grade": (40, 30)})

    assert not figures.check("- Necrosis: present").reliable, "three of three is luck"
    assert figures.check("- Grade: 2").reliable


def test_a_line_is_judged_by_the_field_it_states():
    figures = EvidenceFigures({"diagnosis": (100, 90), "grade": (100, 10)})

    assert figures.check("- Grade: 2").field == "grade"
    assert figures.check("Mucinous carcinoma").field == "diagnosis"
    assert figures.check("Breast, excision:") is None
    assert EvidenceFigures({}).check("- Grade: 2") is None


def test_figures_survive_the_round_trip_through_the_models_config():
    figures = EvidenceFigures({"grade": (40, 30)}, threshold=0.6)

    assert EvidenceFigures.from_config(figures.to_config()) == figures
    assert EvidenceFigures.from_config({}).fields == {}


@pytest.mark.parametrize(
    "config",
    [
        {"fields": {"grade": {"lines": 3, "hits": 4}}},
        {"fields": {"grade": {"lines": 0, "hits": 0}}},
        {"fields": {"grade": {"lines": 3}}},
        {"fields": {"grade": 3}},
        {"fields": {}, "threshold": 1.5},
        {"fields": {}, "threshold": "x"},
    ],
)
def test_impossible_figures_are_refused(config):
    with pytest.raises(FatalError) as caught:
        EvidenceFigures.from_config(config)
    assert caught.value.code == "model-config-invalid"


def test_figures_count_lines_and_hits_of_each_field():
    square = np.array([[0, 0], [50, 0], [50, 50], [0, 50]], dtype=float)
    tiles = np.array([[0.0, 0.0], [200.0, 0.0]])
    cases = [
        EvidenceCase(f"s{n}", field, np.array([[200.0 * miss, 0.0]]), tiles, 100.0, (square,))
        for n, (field, miss) in enumerate([("grade", 0), ("grade", 1), ("grade", 0), ("necrosis", 1)])
    ]

    assert evidence_figures(cases).fields == {"grade": (3, 2), "necrosis": (1, 0)}
