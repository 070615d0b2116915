"""Quality: each flag is raised by its own defect and by nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from tiff_pyramid import halved

from histgen_lib.reports.notices import QUALITY_SENTENCES
from histgen_lib.slides import QualityReport, TileGrid, TilingSettings, assess_quality, open_slide, plan_grid
from histgen_lib.slides.grid import unread_tissue
from histgen_lib.slides.quality import CHECKS, NEVER_CHECKED, RULES, flags_of

SOUND = QualityReport(
    flags=(),
    tissue_mm2=5.0,
    pen_mm2=0.0,
    sharpness=0.3,
    blurred_fraction=0.0,
    clipped_fraction=0.0,
    background_brightness=240.0,
    colourfulness=0.3,
    enlargement=1.0,
    tiles_looked_at=48,
)


def quality_of(make_slide, picture, mpp=1.0):
    with open_slide(make_slide("a.tif", [picture, halved(picture, 2)], mpp=mpp)) as slide:
        return assess_quality(slide, plan_grid(slide, TilingSettings(mpp=1.0)))


def test_a_sound_slide_raises_no_flag(make_slide, picture):
    report = quality_of(make_slide, picture)
    assert report.flags == ()
    assert report.tissue_mm2 == pytest.approx(np.pi * 0.09 * 2.3 * 2.048, rel=0.08)
    assert json.loads(json.dumps(report.to_dict()))["flags"] == []


def test_the_report_is_the_same_every_time(make_slide, picture):
    assert quality_of(make_slide, picture) == quality_of(make_slide, picture)


def test_blur_is_noticed(make_slide, picture):
    assert quality_of(make_slide, cv2.GaussianBlur(picture, (0, 0), 4)).flags == ("out-of-focus",)


def test_ink_is_noticed(make_slide, picture):
    marked = picture.copy()
    cv2.line(marked, (100, 100), (1500, 120), (30, 60, 170), 90)
    report = quality_of(make_slide, marked)
    assert report.flags == ("pen",)
    assert 1.4 * 0.09 < report.pen_mm2 < 1.45 * 0.18  # the stroke, and a rim of some 30 µm on each side


def test_overexposure_is_noticed(make_slide, picture):
    bright = np.clip(picture * 1.25, 0, 255).astype(np.uint8)
    assert "overexposed" in quality_of(make_slide, bright).flags


def test_enlargement_is_noticed(make_slide, picture):
    report = quality_of(make_slide, picture, mpp=1.6)
    assert report.flags == ("enlarged",)
    assert report.enlargement == pytest.approx(1.6, rel=1e-3)


@pytest.mark.parametrize(
    ("flag", "measured"),
    [
        ("little-tissue", {"tissue_mm2": 0.19}),
        ("out-of-focus", {"blurred_fraction": 0.51}),
        ("partly-out-of-focus", {"blurred_fraction": 0.21}),
        ("pen", {"pen_mm2": 0.02}),
        ("overexposed", {"clipped_fraction": 0.21}),
        ("underexposed", {"background_brightness": 149.0}),
        ("pale", {"colourfulness": 0.07}),
        ("enlarged", {"enlargement": 1.11}),
    ],
)
def test_each_threshold_is_as_documented(flag, measured):
    assert flags_of(SOUND) == ()
    assert flags_of(replace(SOUND, **measured)) == (flag,)


def test_the_checks_are_those_that_can_raise_a_flag():
    """The page's list is derived from the rules: an added rule appears in it, a removed one does not."""
    assert [rule.check for rule in RULES if rule.check not in CHECKS] == []
    assert {"focus", "ink", "exposure"} <= set(CHECKS)
    assert not set(CHECKS) & set(NEVER_CHECKED)
    flags = [rule.flag for rule in RULES]
    assert len(flags) == len(set(flags))
    assert [flag for flag in flags if flag not in QUALITY_SENTENCES] == []


def test_tissue_in_no_tile_is_measured(make_slide):
    """Half a tile's width of tissue hangs over into a column that has too little of it to be read."""
    picture = np.full((512, 1024, 3), 243, np.uint8)
    picture[0:512, 0:544] = (190, 120, 170)  # tiles of 128 px: the fifth column is a quarter full
    with open_slide(make_slide("a.tif", [picture, halved(picture, 2)], mpp=1.0)) as slide:
        whole = assess_quality(slide, plan_grid(slide, TilingSettings(tile_px=128, mpp=1.0, min_tissue=0.1)))
        some = assess_quality(slide, plan_grid(slide, TilingSettings(tile_px=128, mpp=1.0, min_tissue=0.5)))

    assert whole.tissue_unread_mm2 == whole.tissue_unread_fraction == 0
    assert some.tissue_unread_mm2 == pytest.approx(0.032 * 0.512, rel=0.4)
    assert some.tissue_unread_fraction == pytest.approx(32 / 544, rel=0.4)


def test_overlapping_tiles_cover_their_tissue_once():
    mask = np.ones((10, 10), dtype=bool)
    tissue, xy = np.ones(2, np.float32), np.array([[0, 0], [40, 0]], np.int32)
    grid = TileGrid(xy=xy, span_px=60.0, tile_px=6, mpp=1.0, tissue=tissue, mask=mask, mask_downsample=10.0)

    assert (~unread_tissue(grid)).sum() == 60
    assert not unread_tissue(grid)[:6].any()
