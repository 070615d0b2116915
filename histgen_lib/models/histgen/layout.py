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
    order = np.argsort(along)
    if np.any(np.diff(along[order]) == 0):
        return np.lexsort((corners[:, 0], corners[:, 1], along))
    return order


_BITS = 4
"""Bits of a cell's x and y by which `_hilbert_index` goes on at once."""


def _hilbert_index(x: IntArray, y: IntArray) -> IntArray:
    """Return each cell's distance along the curve through the smallest 2^k square that holds all cells."""
    bits = max(int(max(x.max(), y.max())).bit_length(), 1)
    rounds = -(-bits // _BITS)
    along = np.zeros(len(x), dtype=np.int64)
    # Each bit before the first one swaps the axes: begin so that it starts with the axes as they are.
    turn = np.full(len(x), (rounds * _BITS - bits) % 2)
    table, low = _curve(), (1 << _BITS) - 1
    for shift in reversed(range(0, rounds * _BITS, _BITS)):
        entry = table[turn << 2 * _BITS | (x >> shift & low) << _BITS | y >> shift & low]
        along = along << 2 * _BITS | entry >> 2
        turn = entry & 3
    return along


@lru_cache(maxsize=1)
def _curve() -> IntArray:
    """Follow the curve through a square of 2^`_BITS` cells a side, for each turn: int64[4 turns · x · y].

    Bit 0 of a turn swaps the axes and bit 1 mirrors both; the order does not matter. An entry is the
    distance along the curve, times 4, plus the turn with which the curve goes on inside the cell.
    """
    side = 1 << _BITS
    turn, x, y = (axis.reshape(-1) for axis in np.indices((4, side, side)))
    along = np.zeros_like(turn)
    for bit in reversed(range(_BITS)):
        swapped, mirrored = turn & 1, turn >> 1
        first, second = x >> bit & 1 ^ mirrored, y >> bit & 1 ^ mirrored
        right = np.where(swapped, second, first)
        upper = np.where(swapped, first, second)
        along = along << 2 | 3 * right ^ upper
        turn = turn ^ (1 - upper) ^ (right & (1 - upper)) << 1
    entries: IntArray = along << 2 | turn
    return entries


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
