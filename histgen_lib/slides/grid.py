"""The tile grid: which squares of a slide, at the required scale, hold enough tissue to be read."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides.limits import require_squares, require_tiles
from histgen_lib.slides.settings import TileGrid, TilingSettings
from histgen_lib.slides.slide import Slide

MOST_ENLARGEMENT = 2.0
"""A slide may be this much coarser than the required scale; its tiles are enlarged, and quality flags it."""


def plan_grid(slide: Slide, settings: TilingSettings, *, most_tiles: int | None = None) -> TileGrid:
    """Lay a grid over the slide from its top-left corner and keep the tiles with enough tissue, row by row.

    The grid covers the whole slide: tiles of the last column and row may reach past its edge, where they are
    white and count as no tissue. Raises `InvalidInputError`: `slide-too-coarse` when the slide's pixels are
    more than twice as large as required, `slide-no-tissue` when no tile is left, `slide-too-many-tiles` when
    more than `most_tiles` are left or the slide is too large for any grid, `slide-read-failed`.
    """
    factor = settings.mpp / slide.mpp
    if factor * MOST_ENLARGEMENT < 1:
        raise InvalidInputError(
            "slide-too-coarse",
            f"{slide.path.name} has {slide.mpp:g} µm per pixel; the model needs {settings.mpp:g}, "
            f"and at most {settings.mpp * MOST_ENLARGEMENT:g} can be used.",
            hint="Scan the slide at a higher magnification; if its scale is wrong, correct it with --mpp.",
        )
    require_squares(slide.path.name, math.prod(_counts(slide.size, settings, factor)))
    mask, downsample = slide.tissue_map.tissue, slide.overview[1]
    corners = _corners(slide.size, settings, factor)
    span_px = settings.tile_px * factor
    tissue = tissue_fraction(mask, corners / downsample, span_px / downsample)
    keep = tissue >= max(settings.min_tissue, 1e-6)
    if not keep.any():
        raise InvalidInputError(
            "slide-no-tissue",
            f"No tissue was found on {slide.path.name}.",
            hint="Look at the slide: it may be empty, unstained, or scanned in the wrong place. "
            "If its tissue is sparse, lower min_tissue, the fraction of a tile that must be tissue.",
        )
    if most_tiles is not None:
        require_tiles(slide.path.name, int(keep.sum()), most_tiles)
    return TileGrid(
        xy=np.rint(corners[keep]).astype(np.int32),
        span_px=span_px,
        tile_px=settings.tile_px,
        mpp=settings.mpp,
        tissue=tissue[keep].astype(np.float32),
        mask=mask,
        mask_downsample=downsample,
    )


def unread_tissue(grid: TileGrid) -> NDArray[np.bool_]:
    """Return the tissue that lies in no tile: bool[h,w] over the pixels of the grid's mask.

    Edges of tiles are rounded to mask pixels, shared edges to the same one.
    """
    height, width = grid.mask.shape
    starts = np.rint(grid.xy / grid.mask_downsample).astype(np.int64)
    ends = np.rint((grid.xy + grid.span_px) / grid.mask_downsample).astype(np.int64)
    (left, top), (right, bottom) = (np.clip(c, 0, (width, height)).T for c in (starts, ends))
    steps = np.zeros((height + 1, width + 1), dtype=np.int32)
    for rows, columns, step in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
        np.add.at(steps, (rows, columns), step)
    covered = steps.cumsum(0).cumsum(1)[:height, :width] > 0
    return np.asarray(grid.mask & ~covered)


def tissue_fraction(
    mask: NDArray[np.bool_], corners: NDArray[np.float64], side: float
) -> NDArray[np.float64]:
    """Return the tissue fraction of squares: float64[N] for corners float64[N,2] and a side in mask px.

    Exact for squares that cut mask pixels. What lies outside the mask is not tissue.
    """
    summed = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    summed[1:, 1:] = mask.cumsum(0, dtype=np.float64).cumsum(1)
    left, top = corners.T
    area = _at(summed, left + side, top + side) - _at(summed, left, top + side)
    area += _at(summed, left, top) - _at(summed, left + side, top)
    return area / side**2


def _at(summed: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate a summed-area table between its nodes, bilinearly: so areas of cut pixels are exact."""
    height, width = summed.shape
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    x0, y0 = np.minimum(x.astype(np.int64), width - 2), np.minimum(y.astype(np.int64), height - 2)
    fx, fy = x - x0, y - y0
    upper = summed[y0, x0] * (1 - fx) + summed[y0, x0 + 1] * fx
    lower = summed[y0 + 1, x0] * (1 - fx) + summed[y0 + 1, x0 + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy)


def _corners(size: tuple[int, int], settings: TilingSettings, factor: float) -> NDArray[np.float64]:
    """Return the top-left corners of all squares over the slide: float64[N,2] level-0 px, row by row."""
    step = (settings.tile_px - settings.overlap_px) * factor
    xs, ys = (np.arange(count) * step for count in _counts(size, settings, factor))
    across, down = np.meshgrid(xs, ys)
    return np.stack([across.ravel(), down.ravel()], axis=1)


def _counts(size: tuple[int, int], settings: TilingSettings, factor: float) -> tuple[int, int]:
    """Return how many squares cover the slide, across and down."""
    step = (settings.tile_px - settings.overlap_px) * factor
    overlap = settings.overlap_px * factor
    across, down = (max(1, int(np.ceil((side - overlap) / step - 1e-9))) for side in size)
    return across, down
