"""The fast path gives the same tiles as OpenSlide, is used only where it does, and refuses damage alike."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg
from tiff_pyramid import halved

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides import TilingSettings, open_slide, plan_grid


def both(path, **tiling):
    """Read all tiles by the fast path and by OpenSlide."""
    found = []
    for fast in (True, False):
        with open_slide(path, mpp=0.25, fast=fast) as slide:
            grid = plan_grid(slide, TilingSettings(**tiling))
            found.append(np.concatenate([batch.pixels for batch in slide.read_tiles(grid)]).astype(int))
    return found


def fast_levels(slide):
    return set(getattr(slide._reader, "fast_levels", ()))


@pytest.mark.parametrize("tile_px", [256, 240, 512])
@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.7])
def test_tiles_are_as_in_openslide(make_slide, picture, tile_px, mpp):
    path = make_slide("a.tif", [picture, halved(picture), halved(picture, 2)], tile_px=tile_px)
    with open_slide(path, mpp=0.25) as slide:
        assert fast_levels(slide) == {0, 1, 2}
    ours, theirs = both(path, mpp=mpp)
    assert np.abs(ours - theirs).max() <= 4


def test_levels_whose_factor_is_not_whole_agree_up_to_a_shift_below_a_pixel(make_slide, picture):
    odd = np.ascontiguousarray(picture[:2001, :2201])
    ours, theirs = both(make_slide("a.tif", [odd, halved(odd)]), mpp=0.5)
    assert np.abs(ours - theirs).mean() < 4
    assert np.abs(ours.mean((1, 2)) - theirs.mean((1, 2))).max() < 1


def test_regions_over_every_edge_are_as_in_openslide(make_slide, picture):
    path = make_slide("a.tif", [picture[:700, :900]])
    with open_slide(path) as ours, open_slide(path, fast=False) as theirs:
        for x, y, w, h in [
            (-50, -60, 200, 200),
            (850, 650, 99, 99),
            (-10, 300, 950, 10),
            (2000, 0, 9, 9),
            (0, 0, 1, 1),
        ]:
            same = np.abs(ours.read_region(x, y, 0, w, h).astype(int) - theirs.read_region(x, y, 0, w, h))
            assert same.max() <= 4


def test_levels_with_gaps_are_left_to_openslide(make_slide, picture):
    path = make_slide("a.tif", [picture, halved(picture)], blank_tiles=frozenset({3}))
    with open_slide(path) as slide:
        assert fast_levels(slide) == {1}


def test_colours_that_differ_from_openslides_are_noticed(make_slide, picture, monkeypatch):
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **how: decode(*args, **how)[..., ::-1])
    with open_slide(make_slide("a.tif", [picture])) as slide:
        assert fast_levels(slide) == set()
        assert np.abs(slide.read_region(0, 0, 0, 500, 500).astype(int) - picture[:500, :500]).mean() < 4


@pytest.mark.parametrize("damage", ["zeros", "noise", "early end"])
def test_damaged_tiles_are_refused_never_shown(tmp_path, slide_file, damage):
    data = bytearray(slide_file.read_bytes())
    start = data.find(b"\xff\xd8", len(data) // 3)  # a tile of level 0 that is not compared at opening
    entropy = data.find(b"\xff\xda", start) + 14
    stop = data.find(b"\xff\xd9", entropy)
    middle = (entropy + stop) // 2
    filling = {"zeros": bytes(stop - middle), "noise": b"\xff\x00\x12" * (stop - middle)}
    data[middle:stop] = filling.get(damage, b"\xff\xd9" * (stop - middle))[: stop - middle]
    (tmp_path / "a.tif").write_bytes(data)
    with open_slide(tmp_path / "a.tif", mpp=0.25) as slide:
        assert 0 in fast_levels(slide)
        with pytest.raises(InvalidInputError) as caught:
            slide.read_region(0, 0, 0, *slide.size)
    assert caught.value.code == "slide-read-failed"


def test_real_slides_agree(shared_dir):
    expected = {
        "CMU-1-Small-Region.svs": {0},
        "PIT_06_00633_01.tiff": {0},
        "TCGA-CR-7395-01A-01-TS1.svs": set(),  # JPEG 2000
    }
    for name, levels in expected.items():
        path = shared_dir / "slides" / name
        with open_slide(path, mpp=0.5) as ours, open_slide(path, mpp=0.5, fast=False) as theirs:
            assert fast_levels(ours) == levels
            width, height = ours.size
            same = ours.read_region(width // 3, height // 3, 0, 700, 700).astype(int)
            assert np.abs(same - theirs.read_region(width // 3, height // 3, 0, 700, 700)).max() <= 4
