"""Truth and pixels agree: each finding is where the truth places it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from histgen_lib.synth import render, sample
from histgen_lib.synth.canvas import CLASS_ID, CLASSES
from histgen_lib.synth.painting import RenderedSlide
from histgen_lib.synth.scene import away_um
from histgen_lib.synth.spec import MITOSES

MAP_UM = 16.0


def polygons(slide: RenderedSlide, field: str) -> list[NDArray[np.int32]]:
    return [np.array(x["polygon"], np.int32) for x in slide.truth["lesions"] if x["field"] == field]


def inside(slide: RenderedSlide, field: str) -> NDArray[np.bool_]:
    """Return the truth map's pixels inside the field's polygons."""
    mask = np.zeros(slide.class_map.shape, np.uint8)
    for polygon in polygons(slide, field):
        cv2.fillPoly(mask, [np.round(polygon / 64).astype(np.int32)], 1)
    return mask.astype(bool)


@pytest.mark.parametrize("name", ["involved", "uninvolved", "inflamed"])
def test_polygons_lie_within_the_slide(name: str, request: pytest.FixtureRequest) -> None:
    slide = request.getfixturevalue(name)
    for lesion in slide.truth["lesions"]:
        points = np.array(lesion["polygon"])
        assert len(points) >= 3
        assert (points >= 0).all()
        assert (points < slide.spec.size_px).all()


@pytest.mark.parametrize("name", ["involved", "uninvolved"])
def test_the_mitoses_match_the_score_and_lie_in_the_hotspot(
    name: str, request: pytest.FixtureRequest
) -> None:
    slide = request.getfixturevalue(name)
    low, high = MITOSES[slide.spec.fields["mitotic_score"]]
    (hotspot,) = [x["polygon"] for x in slide.truth["lesions"] if x["kind"] == "hotspot"]
    assert low <= len(slide.truth["mitoses"]) <= high
    for point in slide.truth["mitoses"]:
        assert cv2.pointPolygonTest(np.array(hotspot, np.float32), [float(v) for v in point], True) > -80


def test_a_mitosis_is_a_dark_figure_in_a_cleared_cell(uninvolved: RenderedSlide) -> None:
    for x, y in uninvolved.truth["mitoses"]:
        cell = uninvolved.image[y - 24 : y + 24, x - 24 : x + 24].mean(2)
        assert cell.min() < 75
        assert np.percentile(cell, 75) > 140


@pytest.mark.parametrize(
    ("field", "cls"), [("necrosis", "necrosis"), ("lymphovascular_invasion", "vessel_embolus")]
)
def test_a_finding_reported_as_present_is_painted_in_its_polygon(
    uninvolved: RenderedSlide, field: str, cls: str
) -> None:
    shown = uninvolved.class_map == CLASS_ID[cls]
    assert (shown & inside(uninvolved, field)).sum() >= 0.9 * shown.sum() > 0


@pytest.mark.parametrize(("field", "cls"), [("granulomas", "granuloma"), ("inflammation", "abscess")])
def test_a_benign_finding_is_painted_in_its_polygon(inflamed: RenderedSlide, field: str, cls: str) -> None:
    shown = inflamed.class_map == CLASS_ID[cls]
    assert (shown & inside(inflamed, field)).sum() >= 0.9 * shown.sum() > 0


def tumour_to_ink_um(slide: RenderedSlide) -> float:
    tumour = inside(slide, "grade")
    ink = slide.class_map == CLASS_ID["ink"]
    assert ink.any()
    return float(away_um(tumour)[ink].min() * MAP_UM / 4)


def test_an_involved_margin_has_tumour_at_the_ink(involved: RenderedSlide) -> None:
    assert tumour_to_ink_um(involved) <= 2 * MAP_UM


def test_an_uninvolved_margin_has_none_within_350_um(uninvolved: RenderedSlide) -> None:
    assert tumour_to_ink_um(uninvolved) >= 350 - MAP_UM


def test_a_biopsy_has_no_ink(inflamed: RenderedSlide) -> None:
    assert inflamed.spec.excision == bool((inflamed.class_map == CLASS_ID["ink"]).any())


@pytest.mark.parametrize("index", range(3))
def test_every_organ_keeps_normal_tissue(index: int) -> None:
    slide = render(sample(12, index))
    tissue = slide.class_map != CLASS_ID["background"]
    lesion = inside(slide, "grade") if slide.spec.diagnosis.invasive else np.zeros_like(tissue)
    assert 0.2 < tissue.mean() < 0.65
    assert (tissue & ~lesion).sum() > 0.3 * tissue.sum()


def test_truth_has_the_class_names_and_the_report(involved: RenderedSlide) -> None:
    assert involved.truth["classes"] == list(CLASSES)
    assert involved.truth["report"] == involved.spec.report
    assert involved.class_map.max() < len(CLASSES)


def test_bare_glass_is_marked_blank_and_identical_everywhere(involved: RenderedSlide) -> None:
    blocks = [
        involved.image[r * 256 : r * 256 + 256, c * 256 : c * 256 + 256]
        for r, c in np.argwhere(involved.blank)
    ]
    assert len(blocks) > 10
    assert all(np.array_equal(block, blocks[0]) for block in blocks)


def test_muscle_is_present_whether_or_not_it_is_invaded() -> None:
    for text in ("muscularis propria not invaded", "with invasion of muscularis propria"):
        spec = min(
            (s for s in (sample(11, i) for i in range(300)) if text in s.fields["diagnosis"]),
            key=lambda s: s.size_px[0],
        )
        slide = render(spec)
        muscle = slide.class_map == CLASS_ID["smooth_muscle"]
        near = inside(slide, "grade")
        assert muscle.mean() > 0.01
        assert bool((muscle & near).sum() > 5) == text.startswith("with")
