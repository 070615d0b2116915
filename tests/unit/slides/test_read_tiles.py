"""Tiles: the right place, the right scale, the same pixels however they are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiff_pyramid import halved

from histgen_lib.slides import Level, TileGrid, TilingSettings, open_slide, plan_grid
from histgen_lib.slides.reading import best_level


def every_tile(slide, grid, **how):
    return np.concatenate([batch.pixels for batch in slide.read_tiles(grid, **how)])


def ramp(height, width):
    """Paint a picture whose red is x / 8 and green y / 8, so that a tile's colours say where it lies."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns // 8, rows // 8, np.full_like(rows, 100)], axis=-1).astype(np.uint8)


def grid_at(places, span_px, tile_px=256):
    xy = np.asarray(places, np.int32).reshape(-1, 2)
    tissue = np.ones(len(xy), np.float32)
    return TileGrid(xy, span_px, tile_px, 0.5, tissue, np.ones((4, 4), bool), 512.0)


def test_batches_have_the_requested_size_and_the_grids_order(slide_file):
    with open_slide(slide_file) as slide:
        grid = plan_grid(slide, TilingSettings(mpp=0.25))
        batches = list(slide.read_tiles(grid, batch_size=5))
    assert [len(batch) for batch in batches[:-1]] == [5] * (len(batches) - 1)
    assert all(
        batch.pixels.shape[1:] == (256, 256, 3) and batch.pixels.dtype == np.uint8 for batch in batches
    )
    assert np.array_equal(np.concatenate([batch.xy for batch in batches]), grid.xy)


def test_pixels_do_not_depend_on_batches_threads_or_chance(slide_file):
    with open_slide(slide_file) as slide:
        grid = plan_grid(slide, TilingSettings(mpp=0.37, overlap_px=40))
        first = every_tile(slide, grid, batch_size=64, threads=1)
        for how in ({"batch_size": 1, "threads": 4}, {"batch_size": 7, "threads": 2}, {"batch_size": 999}):
            assert np.array_equal(first, every_tile(slide, grid, **how))


def test_small_chunks_give_the_same_pixels(slide_file, monkeypatch):
    with open_slide(slide_file) as slide:
        grid = plan_grid(slide, TilingSettings(mpp=0.25))
        first = every_tile(slide, grid)
        monkeypatch.setattr("histgen_lib.slides.reading._MOST_CHUNK_BYTES", 3 * 256 * 256 * 3)
        assert np.array_equal(first, every_tile(slide, grid))


def test_at_the_slides_own_scale_a_tile_is_the_region_itself(slide_file):
    with open_slide(slide_file) as slide:
        grid = plan_grid(slide, TilingSettings(mpp=slide.mpp))
        tiles = every_tile(slide, grid)
        for tile, (x, y) in zip(tiles, grid.xy.tolist(), strict=True):
            assert np.array_equal(tile, slide.read_region(x, y, 0, 256, 256))


def test_at_a_levels_scale_a_tile_is_the_levels_region(slide_file):
    with open_slide(slide_file) as slide:
        grid = plan_grid(slide, TilingSettings(mpp=slide.mpp * 2))
        for tile, (x, y) in zip(every_tile(slide, grid), grid.xy.tolist(), strict=True):
            assert np.array_equal(tile, slide.read_region(x, y, 1, 256, 256))


@pytest.mark.parametrize("span_px", [128.0, 256.0, 256.5130260521042, 512.0, 777.7])
def test_tiles_show_their_own_place_at_their_own_scale(make_slide, span_px):
    """On a ramp, rows and columns of each tile must have the colour of their place (± 2 px, JPEG noise)."""
    steps = np.arange(0, 2048 - span_px, span_px / 2)
    grid = grid_at([(round(x), round(y)) for y in steps for x in steps], span_px)
    with open_slide(make_slide("ramp.tif", [ramp(2048, 2048)], mpp=0.5, quality=100)) as slide:
        tiles = every_tile(slide, grid).astype(float)
    offsets = (np.arange(256) + 0.5) * span_px / 256
    for tile, (x, y) in zip(tiles, grid.xy.tolist(), strict=True):
        for found, place in ((tile[..., 0].mean(0), x + offsets), (tile[..., 1].mean(1), y + offsets)):
            assert abs((found - place / 8 + 0.5).mean()) < 2.5 / 8
            assert np.abs(found - place / 8 + 0.5).mean() < 5 / 8


def test_a_level_of_2_0005_serves_a_twofold_reduction(make_slide):
    source = ramp(2001, 2001)
    grid = grid_at([(0, 0), (512, 512), (1024, 1024), (1400, 0)], 512.0)
    path = make_slide("odd.tif", [source, halved(source)], mpp=0.25, quality=100)
    with open_slide(path) as slide:
        assert slide.levels[1].downsample == pytest.approx(2.001)
        tiles = every_tile(slide, grid).astype(float)
    for tile, (x, y) in zip(tiles, grid.xy.tolist(), strict=True):
        assert abs(tile[:, :200, 0].mean() - (x + 200) / 8 + 0.5) < 2.5 / 8
        assert abs(tile[:200, :, 1].mean() - (y + 200) / 8 + 0.5) < 2.5 / 8


def test_shrinking_averages_and_does_not_skip(make_slide):
    """A fine checkerboard must become grey: picking pixels would leave stripes."""
    board = np.where(np.add(*np.mgrid[:1024, :1024]) % 2, 200, 100).astype(np.uint8)
    path = make_slide("board.tif", [np.repeat(board[..., None], 3, 2)], quality=100)
    with open_slide(path) as slide:
        tile = every_tile(slide, grid_at([(128, 128)], 512.0))[0]
    assert np.abs(tile.astype(int) - 150).max() <= 4


def test_tiles_over_the_edge_are_white_there(make_slide):
    path = make_slide("a.tif", [np.full((300, 300, 3), 90, np.uint8)])
    with open_slide(path) as slide:
        tile = every_tile(slide, grid_at([(256, 256)], 256.0))[0]
    assert (tile[50:, 50:] == 255).all()
    assert (tile[:40, :40] < 100).all()


def test_scattered_tiles_are_read_in_the_grids_order(make_slide):
    source = ramp(2048, 2048)
    places = np.random.default_rng(1).integers(0, 1900, (40, 2))
    with open_slide(make_slide("ramp.tif", [source], quality=100)) as slide:
        tiles = every_tile(slide, grid_at(places, 128.0, 128), batch_size=9)
    found = tiles[:, :, :, :2].astype(float).mean((1, 2))
    assert np.abs(found - ((places + 64) / 8 - 0.5)).max() < 2.5 / 8


def test_no_tiles_give_no_batches(slide_file):
    with open_slide(slide_file) as slide:
        assert list(slide.read_tiles(grid_at([], 512.0))) == []


def test_leaving_early_stops_the_reading(slide_file):
    with open_slide(slide_file) as slide:
        grid = plan_grid(slide, TilingSettings(mpp=0.25))
        batches = slide.read_tiles(grid, batch_size=2)
        assert len(next(batches)) == 2
        batches.close()
        assert len(every_tile(slide, replace(grid, xy=grid.xy[:3], tissue=grid.tissue[:3]))) == 3


@pytest.mark.parametrize(("factor", "level"), [(0.5, 0), (1, 0), (1.9, 0), (2, 1), (3.9, 1), (4, 2), (64, 2)])
def test_the_coarsest_level_that_is_fine_enough_is_read(factor, level):
    levels = [Level((4096, 4096), 1.0), Level((2047, 2048), 2.0005), Level((1023, 1024), 4.002)]
    assert best_level(levels, factor) == level
