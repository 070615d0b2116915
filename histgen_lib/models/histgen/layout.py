"""The layout of tiles for the network: curve order, regions, prototypes. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import InvalidInputError

IntArray = npt.NDArray[np.int64]


class Arrangement(NamedTuple):
    """Where one slide's tiles lie among its regions.

    `rows` int64[R, P], the input row of each place's tile (0 at padding), P places a region; `mask`
    bool[R, P], True for a real tile; `prototypes` int64[K], the input rows that stand for the slide.
    """

    rows: IntArray
    mask: npt.NDArray[np.bool_]
    prototypes: IntArray


def tile_order(xy: npt.ArrayLike, span_px: float) -> IntArray:
    """Order tiles along a Hilbert curve, so that a run of tiles is a compact patch of tissue.

    `xy`: int[N, 2], top-left corners in level-0 px; `span_px`: a tile's side in level-0 px.
    Returns int64[N], the input row of each place in the order. Independent of where on the slide the
    tissue lies; tiles sharing a cell (overlap) are ordered by y, then x, then input row.
    Curve: D. Hilbert, Math. Ann. 38 (1891).
    """
    corners = np.asarray(xy, dtype=np.int64).reshape(-1, 2)
    if len(corners) == 0:
        return np.zeros(0, dtype=np.int64)
    # To the nearest cell: corners are whole pixels of a grid whose step need not be whole.
    cells = np.floor((corners - corners.min(axis=0)) / float(span_px) + 0.5).astype(np.int64)
    along = _hilbert_index(cells[:, 0], cells[:, 1])
    return np.lexsort((corners[:, 0], corners[:, 1], along))


def _hilbert_index(x: IntArray, y: IntArray) -> IntArray:
    """Return each cell's distance along the curve through the smallest 2^k square that holds all cells."""
    x, y = x.copy(), y.copy()
    bits = max(int(max(x.max(), y.max())).bit_length(), 1)
    along = np.zeros(len(x), dtype=np.int64)
    for bit in reversed(range(bits)):
        side = 1 << bit
        right, upper = (x & side) > 0, (y & side) > 0
        along += side * side * ((3 * right) ^ upper)
        x &= side - 1
        y &= side - 1
        mirrored = right & ~upper
        x[mirrored], y[mirrored] = side - 1 - x[mirrored], side - 1 - y[mirrored]
        turned = ~upper
        x[turned], y[turned] = y[turned], x[turned]
    return along


@lru_cache(maxsize=4096)
def prototype_rows(tiles: int, prototypes: int) -> IntArray:
    """Rows of the tiles that serve as a slide's prototypes: int64[prototypes], read-only.

    Evenly spaced from 0 to tiles−1 and truncated; in float32 and from both ends towards the middle, as the
    published model computes them: other arithmetic picks other tiles for some counts.
    """
    step = np.float64(np.float32(tiles - 1) / np.float32(max(prototypes - 1, 1)))
    place = np.arange(prototypes, dtype=np.float64)
    from_start, from_end = step * place, (tiles - 1) - step * place[::-1]
    half = prototypes // 2 if prototypes > 1 else 1
    # One rounding at the end stands for the fused multiply-add that torch's kernel compiles to.
    places = np.concatenate([from_start[:half], from_end[half:]]).astype(np.float32)
    rows = places.astype(np.int64)
    rows.setflags(write=False)
    return rows


def region_count(tiles: int, tiles_per_region: int) -> int:
    """Return the number of regions for so many tiles."""
    return -(-tiles // tiles_per_region)


def arrange(order: IntArray, tiles_per_region: int, prototypes: int, runs: Sequence[int] = ()) -> Arrangement:
    """Cut one slide's tiles into regions. `order` int64[N]: the input row of each place (`tile_order`).

    `runs`: the number of tiles of each slide of a case, in order; each slide then starts a region of its own.
    Raises InvalidInputError("bag-empty") without tiles.
    """
    if len(order) == 0:
        raise empty_bag()
    places = _places(runs or [len(order)], tiles_per_region)
    shape = region_count(int(places[-1]) + 1, tiles_per_region), tiles_per_region
    rows, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
    rows.reshape(-1)[places] = order
    mask.reshape(-1)[places] = True
    return Arrangement(rows, mask, order[prototype_rows(len(order), prototypes)])


def empty_bag() -> InvalidInputError:
    """Make the error for a bag without tiles: InvalidInputError("bag-empty")."""
    return InvalidInputError(
        "bag-empty", "There are no tiles to report on.", hint="Check that the slide has tissue."
    )


def _places(runs: Sequence[int], tiles_per_region: int) -> IntArray:
    """Find the row of each tile among the padded ones when every run starts a region: int64[N]."""
    padded = [region_count(run, tiles_per_region) * tiles_per_region for run in runs]
    starts = np.cumsum([0, *padded[:-1]])
    return np.concatenate([start + np.arange(run) for start, run in zip(starts, runs, strict=True)])
