"""The tissue mask: what it must keep, and what must not fool it. Pictures have 8 µm per pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from stained_picture import stained

from histgen_lib.slides import find_tissue

SHAPE = (300, 400)
BODY = (slice(90, 210), slice(120, 280))  # well inside the tissue of `stained`


def body_mask():
    mask = np.zeros(SHAPE, np.uint8)
    cv2.ellipse(mask, (200, 150), (120, 90), 0, 0, 360, 1, -1)
    return mask > 0


def overlap(found, expected):
    return (found & expected).sum() / (found | expected).sum()


def stroke(picture, points, colour, *, width=20):
    """Draw translucent ink with soft edges, as a marker does."""
    mark = np.zeros(picture.shape[:2], np.uint8)
    cv2.polylines(mark, [np.array(points)], False, 255, width, cv2.LINE_AA)
    weight = cv2.GaussianBlur(mark, (0, 0), 1.5)[..., None] / 255 * 0.9
    inked = picture * (1 - weight) + weight * picture / 255 * np.array(colour)
    return np.clip(inked, 0, 255).astype(np.uint8), mark > 0


@pytest.mark.parametrize(
    "glass",
    [
        (255, 255, 255),
        (243, 242, 244),
        (233, 232, 239),
        (200, 200, 202),
        (214, 208, 226),
        (236, 228, 208),
        (165,) * 3,
    ],
    ids=["white", "usual", "grey-lilac", "grey", "lilac", "cream", "dark"],
)
def test_tissue_is_found_on_any_glass(glass):
    found = find_tissue(stained(*SHAPE, glass=glass), mpp=8)
    assert overlap(found.tissue, body_mask()) > 0.93
    assert not found.pen.any()
    assert found.background == pytest.approx(glass, abs=4)


def test_scanner_stripes_and_shading_are_not_tissue():
    picture = stained(*SHAPE, glass=(225, 223, 228)).astype(float)
    picture[:, ::40] *= 0.95
    picture[80:140] *= 0.97
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    picture *= (1 - 0.06 * ((columns - 200) ** 2 + (rows - 150) ** 2) / 250**2)[..., None]
    found = find_tissue(picture.astype(np.uint8), mpp=8)
    assert overlap(found.tissue, body_mask()) > 0.92


def test_unscanned_white_beside_tinted_glass_is_not_tissue():
    """Scanners fill what they skip with pure white: then the glass is the darker of two backgrounds."""
    picture = stained(*SHAPE, glass=(228, 221, 230))
    picture[:60] = 255
    picture[:, 330:] = 255
    found = find_tissue(picture, mpp=8)
    assert not found.tissue[:55].any()
    assert not found.tissue[:, 335:].any()
    assert overlap(found.tissue[65:, :325], body_mask()[65:, :325]) > 0.92


@pytest.mark.parametrize(
    "ink",
    [(30, 60, 170), (40, 40, 150), (20, 140, 60), (60, 190, 200), (225, 30, 45), (25, 25, 25)],
    ids=["blue", "dark blue", "green", "cyan", "red", "black"],
)
def test_ink_on_glass_is_pen_and_not_tissue(ink):
    picture, mark = stroke(stained(*SHAPE), [(20, 280), (150, 270), (380, 285)], ink)
    found = find_tissue(picture, mpp=8)
    assert not (found.tissue & mark).any()
    assert found.pen[mark].mean() > 0.95
    assert overlap(found.tissue, body_mask()) > 0.9


@pytest.mark.parametrize("ink", [(30, 60, 170), (20, 140, 60), (25, 25, 25)], ids=["blue", "green", "black"])
def test_ink_over_tissue_is_pen(ink):
    picture, mark = stroke(stained(*SHAPE), [(130, 150), (280, 160)], ink)
    found = find_tissue(picture, mpp=8)
    assert found.pen[mark].mean() > 0.85
    assert found.tissue[90:120, 150:250].all()


def test_blood_is_tissue_and_not_red_pen():
    picture = stained(*SHAPE).astype(float)
    lake = np.zeros(SHAPE, np.uint8)
    cv2.ellipse(lake, (60, 60), (50, 35), 20, 0, 360, 1, -1)
    cells = np.random.default_rng(0).normal(1, 0.05, (*SHAPE, 1))
    picture = np.where(lake[..., None] > 0, np.array([205, 75, 85]) * cells, picture)
    found = find_tissue(np.clip(picture, 0, 255).astype(np.uint8), mpp=8)
    assert found.tissue[lake > 0].mean() > 0.95
    assert not found.pen.any()


def test_folds_stay_tissue():
    picture = stained(*SHAPE).astype(float)
    fold = np.zeros(SHAPE, np.uint8)
    cv2.line(fold, (130, 120), (270, 190), 1, 10)
    folded = np.where(fold[..., None] > 0, picture * picture / 243, picture).astype(np.uint8)
    found = find_tissue(folded, mpp=8)
    assert found.tissue[fold > 0].all()
    assert not found.pen.any()


def test_specks_and_grey_dust_are_dropped():
    picture = stained(*SHAPE)
    picture[20:23, 20:23] = (200, 90, 140)
    picture[270:290, 20:60] = (150, 150, 152)
    cv2.circle(picture, (360, 40), 25, (170, 170, 170), 2)
    found = find_tissue(picture, mpp=8)
    assert not found.tissue[:40].any()
    assert not found.tissue[260:].any()


def test_small_biopsy_fragments_are_kept():
    """100 µm across is small, but may be the whole finding."""
    picture = stained(*SHAPE)
    cv2.circle(picture, (40, 40), 6, (190, 120, 170), -1)
    assert find_tissue(picture, mpp=8).tissue[40, 40]


def test_a_slide_full_of_tissue_needs_no_glass():
    found = find_tissue(np.ascontiguousarray(stained(1200, 1600)[420:780, 500:1100]), mpp=8)
    assert found.tissue.mean() > 0.99


@pytest.mark.parametrize("value", [255, 240, 180, 90, 0])
def test_a_uniform_slide_has_no_tissue(value):
    grain = np.random.default_rng(0).normal(0, 1, (*SHAPE, 3))
    picture = np.clip(value + grain, 0, 255).astype(np.uint8)
    assert not find_tissue(picture, mpp=8).tissue.any()


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (2, 300)])
def test_tiny_pictures_do_no_harm(size):
    assert find_tissue(np.full((*size, 3), 200, np.uint8), mpp=8).tissue.shape == size


@pytest.mark.parametrize("mpp", [2.0, 4.0, 16.0])
def test_the_result_hardly_depends_on_the_overviews_scale(mpp):
    scale = 8 / mpp
    size = (round(SHAPE[1] * scale), round(SHAPE[0] * scale))
    picture = cv2.resize(
        stained(*SHAPE), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    expected = cv2.resize(body_mask().astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    assert overlap(find_tissue(picture, mpp=mpp).tissue, expected) > 0.88
