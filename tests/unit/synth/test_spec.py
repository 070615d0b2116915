"""What is drawn before painting: balance, independence of runs, and reports that are functions of fields."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from histgen_lib.synth import SlideSpec, sample
from histgen_lib.synth.spec import DIAGNOSES, VALUES
from histgen_lib.text.synoptic import format_report, parse_report


@pytest.fixture(scope="module")
def specs() -> list[SlideSpec]:
    return [sample(0, index) for index in range(400)]


def test_a_slide_depends_on_seed_and_index_alone() -> None:
    assert sample(5, 17) == sample(5, 17)
    assert sample(5, 17) != sample(6, 17)
    assert sample(5, 17) != sample(5, 18)


def test_four_hundred_slides_show_every_diagnosis(specs: list[SlideSpec]) -> None:
    assert {(s.diagnosis.organ, s.diagnosis.text) for s in specs} == {(d.organ, d.text) for d in DIAGNOSES}


@pytest.mark.parametrize("field", VALUES)
def test_every_value_of_every_field_is_frequent(specs: list[SlideSpec], field: str) -> None:
    seen = Counter(s.fields[field] for s in specs if field in s.fields)
    assert set(seen) == set(VALUES[field])
    assert min(seen.values()) > 0.1 * sum(seen.values())


def test_reports_parse_back_to_the_fields(specs: list[SlideSpec]) -> None:
    for spec in specs:
        assert spec.report == format_report(spec.fields)
        assert list(parse_report(spec.report).items()) == list(spec.fields.items())


def test_margins_are_reported_on_excisions_of_invasive_tumours_only(specs: list[SlideSpec]) -> None:
    for spec in specs:
        assert ("margins" in spec.fields) == (spec.excision and spec.diagnosis.invasive)


def test_unremarkable_tissue_is_never_called_inflamed(specs: list[SlideSpec]) -> None:
    quiet = [s for s in specs if s.fields["diagnosis"].startswith("Unremarkable")]
    assert {(s.fields["inflammation"], s.fields["granulomas"]) for s in quiet} == {("none", "not identified")}


def test_slides_are_small_and_mostly_neoplastic(specs: list[SlideSpec]) -> None:
    widths = np.array([max(s.size_px) for s in specs])
    assert 4500 < np.median(widths) < 6000
    assert widths.max() < 13_000
    not_neoplastic = ("", "goblet_metaplasia", "op_plug")
    assert 0.55 < np.mean([s.diagnosis.lesion not in not_neoplastic for s in specs]) < 0.8
