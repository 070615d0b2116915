"""Evidence pairs: the region there has to lie on the lesion of that slide."""

from __future__ import annotations

import numpy as np
import pytest

from histgen_lib.errors import InvalidInputError
from histgen_lib.evaluation.retrieval import RegionCase, score_regions
from histgen_lib.evaluation.retrieval.regions import lesions_of, shares_on

LESION = np.array([[0, 0], [100, 0], [100, 100], [0, 100]], dtype=np.float64)
BOXES = np.array([[0, 0, 50, 50], [90, 0, 20, 20], [500, 500, 50, 50]], dtype=np.int32)
VECTORS = np.eye(3, dtype=np.float32)


def _case(name: str, *, vectors: np.ndarray = VECTORS, lesion: bool = True) -> RegionCase:
    return RegionCase(name, vectors, BOXES, (LESION,) if lesion else ())


def test_the_share_of_a_box_on_a_lesion() -> None:
    assert shares_on((LESION,), BOXES) == pytest.approx([1, 0.5, 0])
    assert shares_on((), BOXES).tolist() == [0, 0, 0]


def test_the_region_most_like_the_querys_lesion_is_looked_up() -> None:
    """Region 0 lies on the query's lesion; in the second hit the region most like it lies elsewhere."""
    swapped = VECTORS[[2, 1, 0]]
    gallery = [_case("right"), _case("wrong", vectors=swapped)]
    found = score_regions([_case("query")], gallery, np.array([[0, 1]]))
    assert (found.queries, found.pairs) == (1, 2)
    assert found.meets.estimate.value == 0.5
    assert found.meets.chance == pytest.approx(2 / 3)
    assert found.mostly.chance == pytest.approx(2 / 3)


def test_a_hit_without_a_lesion_is_wrong() -> None:
    found = score_regions([_case("query")], [_case("benign", lesion=False)], np.array([[0]]))
    assert found.meets.estimate.value == found.meets.chance == 0


def test_a_slide_without_a_region_on_its_lesion_is_no_query() -> None:
    with pytest.raises(InvalidInputError) as caught:
        score_regions([_case("benign", lesion=False)], [_case("right")], np.array([[0]]))
    assert caught.value.code == "evaluation-no-evidence"


def test_only_lesions_of_the_field_count_and_normal_tissue_is_none() -> None:
    drawn = [
        ("diagnosis", "pin", LESION),
        ("necrosis", "necrosis", LESION * 2),
        ("diagnosis", "normal", LESION * 3),
    ]
    truth = {"lesions": [{"field": name, "kind": kind, "polygon": one.tolist()} for name, kind, one in drawn]}
    [polygon] = lesions_of(truth)
    assert (polygon == LESION).all()
