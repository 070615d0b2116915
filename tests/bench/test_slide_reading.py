"""Tiles per second, compared with the usual loop (one OpenSlide read and one resize per tile).

Run with `make bench`. Both sides read the same tiles of the same synthetic slide, one after the other,
three times; the best of each counts. CPU time is shown too, as other work on the machine disturbs it less.
It asserts nothing about speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from histgen_lib.slides import TileGrid, TilingSettings, open_slide, plan_grid


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from histgen_lib.synth import generate

    folder = tmp_path_factory.mktemp("bench")
    generate(folder, 1, 7, workers=1)
    return next((folder / "slides").glob("*.tif"))


def one_by_one(path: Path, grid: TileGrid) -> int:
    """Read tiles as most pipelines do: the best level, one region per tile, Pillow's box filter."""
    handle = openslide.OpenSlide(path)
    level = handle.get_best_level_for_downsample(grid.span_px / grid.tile_px * 1.01)
    side = round(grid.span_px / handle.level_downsamples[level])
    count = 0
    for x, y in grid.xy.tolist():
        tile = handle.read_region((x, y), level, (side, side)).convert("RGB")
        if side != grid.tile_px:
            tile = tile.resize((grid.tile_px, grid.tile_px), Image.Resampling.BOX)
        count += np.asarray(tile).shape[0] == grid.tile_px
    return count


def ours(path: Path, grid: TileGrid, **how: bool) -> int:
    """Open the slide (the fast path then checks some tiles against OpenSlide) and read all tiles."""
    with open_slide(path, **how) as slide:
        return sum(len(batch) for batch in slide.read_tiles(grid))


def best_of_three(work: Callable[[], int]) -> tuple[float, float]:
    """Return wall-clock and CPU seconds."""
    taken = []
    for _ in range(3):
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        assert work()
        taken.append((time.perf_counter() - wall_s, time.process_time() - cpu_s))
    return min(wall for wall, _ in taken), min(used for _, used in taken)


@pytest.mark.parametrize("mpp", [0.25, 0.4, 0.5])
def test_reading_tiles_beside_one_by_one(slide_path: Path, mpp: float) -> None:
    with open_slide(slide_path) as slide:
        grid = plan_grid(slide, TilingSettings(mpp=mpp))
    naive = best_of_three(lambda: one_by_one(slide_path, grid))
    fast = best_of_three(lambda: ours(slide_path, grid))
    plain = best_of_three(lambda: ours(slide_path, grid, fast=False))
    print(f"\n{len(grid)} tiles of 256 px at {mpp} mpp (slide 0.25 mpp)")
    for name, (wall_s, cpu_s) in (
        ("one by one", naive),
        ("ours", fast),
        ("ours, OpenSlide only", plain),
    ):
        ratio, cpu_ratio = naive[0] / wall_s, naive[1] / cpu_s
        rate = f"{len(grid) / wall_s:7.0f} tiles/s"
        print(f"  {name:22}{rate}   ×{ratio:.2f} wall clock   ×{cpu_ratio:.2f} CPU time")
