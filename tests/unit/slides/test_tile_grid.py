"""The grid covers the slide, keeps what holds tissue, and has the required scale on every pyramid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stained_picture import stained
from tiff_pyramid import halved

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides import TilingSettings, open_slide, plan_grid
from histgen_lib.slides.grid import tissue_fraction


def grid_of(path, mpp=0.25, **settings):
    with open_slide(path, mpp=mpp) as slide:
        return plan_grid(slide, TilingSettings(**settings))


def test_lies_on_a_lattice_row_by_row(slide_file):
    grid = grid_of(slide_file)
    assert grid.xy.dtype == np.int32
    assert grid.tissue.dtype == np.float32
    assert (grid.span_px, grid.tile_px, grid.mpp) == (512.0, 256, 0.5)
    assert (grid.xy % 512 == 0).all()
    assert grid.xy.tolist() == sorted(grid.xy.tolist(), key=lambda place: (place[1], place[0]))


def test_keeps_tiles_with_enough_tissue_only(slide_file):
    few, many = grid_of(slide_file, min_tissue=0.9), grid_of(slide_file, min_tissue=0.01)
    assert 0 < len(few) < len(many) < 20
    assert few.tissue.min() >= 0.9
    assert {tuple(place) for place in few.xy} < {tuple(place) for place in many.xy}


def test_a_minimum_of_no_tissue_still_requires_some(slide_file):
    grid = grid_of(slide_file, min_tissue=0)
    assert grid.tissue.min() > 0


def test_tiles_reach_over_the_far_edges(make_slide):
    picture = stained(700, 900)
    crop = np.ascontiguousarray(picture[350:, 450:])  # tissue touches the left and upper edge
    full = np.ascontiguousarray(crop[::-1, ::-1])  # ... and here the right and lower one
    grid = grid_of(make_slide("a.tif", [full]), mpp=0.5, min_tissue=0.01)
    assert grid.xy.max(axis=0).tolist() == [256, 256]
    assert (grid.xy.max(axis=0) + grid.span_px > (450, 350)).all()


def test_overlap_moves_the_lattice_by_less_than_a_tile(slide_file):
    grid = grid_of(slide_file, overlap_px=64)
    assert (grid.xy % 384 == 0).all()
    assert grid.span_px == 512
    assert len(grid) > len(grid_of(slide_file))


@pytest.mark.parametrize("mpp", [0.2525, 0.499, 0.5, 0.3, 0.17])
def test_spans_the_required_micrometres_at_any_scale(make_slide, picture, mpp):
    grid = grid_of(make_slide("a.tif", [picture, halved(picture)]), mpp=mpp)
    assert grid.span_px * mpp == pytest.approx(128)
    steps = np.unique(grid.xy[:, 0])
    assert np.abs(steps / grid.span_px - np.rint(steps / grid.span_px)).max() * grid.span_px <= 0.51


def test_a_slightly_coarser_slide_is_enlarged_up_to_twice(make_slide, picture):
    path = make_slide("a.tif", [picture])
    assert grid_of(path, mpp=1.0).span_px == 128
    with pytest.raises(InvalidInputError) as caught:
        grid_of(path, mpp=1.01)
    assert caught.value.code == "slide-too-coarse"
    assert "--mpp" in caught.value.hint


def test_the_mask_covers_the_slide(slide_file):
    grid = grid_of(slide_file)
    height, width = grid.mask.shape
    assert width * grid.mask_downsample >= 2300 > (width - 1) * grid.mask_downsample
    assert height * grid.mask_downsample >= 2048 > (height - 1) * grid.mask_downsample
    assert grid.mask[height // 2, width // 2]
    assert not grid.mask[0, 0]


@pytest.mark.parametrize(
    "wrong", [{"tile_px": 0}, {"mpp": 0}, {"mpp": float("nan")}, {"overlap_px": 256}, {"min_tissue": 1.5}]
)
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(InvalidInputError) as caught:
        TilingSettings(**wrong)
    assert caught.value.code == "tiling-settings-invalid"
    assert next(iter(wrong)) in caught.value.message


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 30), st.floats(-10, 50), st.floats(-10, 50))
def test_tissue_fractions_are_exact_areas(seed, side, x, y):
    """Compared with the sum of the areas of all mask pixels inside the square."""
    mask = np.random.default_rng(seed).random((23, 31)) < 0.5
    found = tissue_fraction(mask, np.array([[x, y]]), side)[0]

    def covered(start, count):
        nodes = np.arange(count)
        return np.clip(np.minimum(nodes + 1, start + side) - np.maximum(nodes, start), 0, None)

    assert found == pytest.approx((np.outer(covered(y, 23), covered(x, 31)) * mask).sum() / side**2, abs=1e-9)


def test_more_tiles_than_a_slide_may_have_are_refused(slide_file):
    count = len(grid_of(slide_file))
    with open_slide(slide_file, mpp=0.25) as slide:
        assert len(plan_grid(slide, TilingSettings(), most_tiles=count)) == count
        with pytest.raises(InvalidInputError) as caught:
            plan_grid(slide, TilingSettings(), most_tiles=count - 1)
    assert caught.value.code == "slide-too-many-tiles"


def test_an_impossibly_large_grid_is_refused_before_it_is_planned(slide_file, monkeypatch):
    """Each square takes memory, with tissue or without."""
    with open_slide(slide_file, mpp=0.25) as slide:
        monkeypatch.setattr(slide, "size", (3_000_000, 3_000_000))
        with pytest.raises(InvalidInputError) as caught:
            plan_grid(slide, TilingSettings())
    assert caught.value.code == "slide-too-many-tiles"
