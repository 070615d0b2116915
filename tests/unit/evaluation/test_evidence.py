"""Evidence hits: geometry first, then rates against chance."""

from __future__ import annotations

import json

import numpy as np
import pytest

from histgen_lib.errors import InvalidInputError
from histgen_lib.evaluation import EvidenceCase, cases_from_draft, evidence_hit_rate
from histgen_lib.evaluation.evidence import tiles_meeting

GRID = np.array([[x, y] for y in range(0, 400, 100) for x in range(0, 400, 100)], dtype=np.float64)
TRIANGLE = np.array([[110.0, 110.0], [190.0, 110.0], [150.0, 190.0]])


def _met(polygon: list[list[float]]) -> list[list[float]]:
    return GRID[tiles_meeting([np.array(polygon, dtype=np.float64)], GRID, 99.0)].tolist()


def test_a_polygon_inside_one_tile_meets_that_tile_only() -> None:
    assert GRID[tiles_meeting([TRIANGLE], GRID, 99.0)].tolist() == [[100, 100]]


def test_a_polygon_around_a_tile_meets_it() -> None:
    assert [100, 100] in _met([[50, 50], [350, 50], [350, 350], [50, 350]])
    assert len(_met([[-10, -10], [500, -10], [500, 500], [-10, 500]])) == len(GRID)


def test_a_polygon_that_only_crosses_a_tile_meets_it() -> None:
    assert _met([[90, 140], [210, 140], [210, 145], [90, 145]]) == [[0, 100], [100, 100], [200, 100]]


def test_a_concave_polygon_does_not_meet_the_tile_in_its_bay() -> None:
    met = _met([[0, 0], [399, 0], [399, 50], [50, 50], [50, 399], [0, 399]])
    assert [100, 100] not in met
    assert len(met) == 7


def test_a_diagonal_misses_the_corner_it_passes_by() -> None:
    assert [0, 0] not in _met([[130, 90], [190, 120], [130, 110]])


def test_intersection_agrees_with_sampled_points() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        polygon = rng.uniform(0, 400, size=(rng.integers(3, 8), 2))
        met = tiles_meeting([polygon], GRID, 100.0)
        points = rng.uniform(0, 400, size=(500, 2))
        inside = points[[_winding_odd(polygon, point) for point in points]]
        for tile in np.unique(inside // 100 * 100, axis=0):
            assert met[(tile == GRID).all(axis=1)].all()


def _winding_odd(polygon: np.ndarray, point: np.ndarray) -> bool:
    odd = False
    for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if (y1 > point[1]) != (y2 > point[1]) and point[0] < x1 + (point[1] - y1) * (x2 - x1) / (y2 - y1):
            odd = not odd
    return odd


def _case(slide: str, field: str, strongest: list[list[float]]) -> EvidenceCase:
    return EvidenceCase(slide, field, np.array(strongest, dtype=np.float64), GRID, 99.0, (TRIANGLE,))


def test_rates_count_the_strongest_tile_and_the_three_strongest() -> None:
    hit, miss, late = [[100.0, 100.0]], [[0.0, 0.0]], [[0.0, 0.0], [300.0, 0.0], [100.0, 100.0]]
    too_late = [[0.0, 0.0], [300.0, 0.0], [200.0, 0.0], [100.0, 100.0]]
    cases = [_case("a", "necrosis", hit), _case("b", "necrosis", miss), _case("c", "necrosis", late)]
    found = evidence_hit_rate([*cases, _case("c", "grade", too_late)])
    assert (found.overall.top1.value, found.overall.top3.value) == (1 / 4, 2 / 4)
    assert (found.fields["necrosis"].top1.value, found.fields["necrosis"].top3.value) == pytest.approx(
        (1 / 3, 2 / 3)
    )
    assert (found.fields["grade"].cases, found.overall.cases) == (1, 4)


def test_chance_is_the_lesions_share_of_tiles_drawn_without_replacement() -> None:
    found = evidence_hit_rate([_case("a", "necrosis", [[0.0, 0.0]])]).overall
    assert found.chance_top1.value == pytest.approx(1 / 16)
    assert found.chance_top3.value == pytest.approx(3 / 16)


def test_evidence_over_a_whole_slide_lesion_is_certain_by_chance() -> None:
    everywhere = np.array([[-1.0, -1.0], [500.0, -1.0], [500.0, 500.0], [-1.0, 500.0]])
    case = EvidenceCase("a", "diagnosis", GRID[:1], GRID[:2], 99.0, (everywhere,))
    found = evidence_hit_rate([case]).overall
    assert (found.top1.value, found.chance_top1.value, found.chance_top3.value) == (1, 1, 1)


def test_intervals_resample_slides_and_the_result_is_json_ready() -> None:
    cases = [_case(f"s{n}", "grade", [[100.0, 100.0]] if n % 2 else [[0.0, 0.0]]) for n in range(20)]
    found = evidence_hit_rate(cases, bootstrap=200, seed=1)
    assert 0 < found.overall.top1.low < 0.5 < found.overall.top1.high < 1
    json.dumps(found.to_dict(), allow_nan=False)


def test_cases_pair_each_sentence_with_the_lesion_that_decides_its_field() -> None:
    far = {"x": 0, "y": 0, "span_px": 99, "weight": 0.1}
    near = {"x": 100, "y": 100, "span_px": 99, "weight": 0.9}
    draft = {
        "slide_id": "s1",
        "sentences": [
            {"text": "Breast, core needle biopsy:", "evidence": [far]},
            {"text": "Mucinous carcinoma", "evidence": [far, near]},
            {"text": "- Necrosis: present", "evidence": [near]},
            {"text": "- Necrosis: not identified", "evidence": [far]},
            {"text": "- Grade: 2", "evidence": []},
            {"text": "- Margins: involved", "evidence": [near]},
        ],
    }
    polygon = TRIANGLE.tolist()
    lesions = [
        {"kind": "tumour", "field": field, "polygon": polygon} for field in ("diagnosis", "necrosis", "grade")
    ]
    truth = {"lesions": [*lesions, {"kind": "x", "field": "margins", "polygon": []}]}
    cases = cases_from_draft(draft, truth, GRID, 99.0)
    assert [case.field for case in cases] == ["diagnosis", "necrosis"]
    assert cases[0].strongest.tolist() == [[100, 100], [0, 0]]
    found = evidence_hit_rate(cases).overall
    assert (found.top1.value, found.chance_top1.value) == (1, pytest.approx(1 / 16))


def test_no_cases_are_an_error_and_not_a_zero() -> None:
    with pytest.raises(InvalidInputError) as caught:
        evidence_hit_rate([])
    assert caught.value.code == "evaluation-no-evidence"
