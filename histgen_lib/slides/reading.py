"""Reading many tiles fast: one large read for neighbouring tiles, several reads at a time.

A scanner stores JPEG tiles whose borders are not ours. Read one by one along the rows of a wide slide, our
tiles decode those JPEGs again for each row they reach into; a block of 4 × 4 tiles decodes each about once.
Decoding happens outside Python's lock, so several blocks are read at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from histgen_lib.cores import cores
from histgen_lib.slides.resample import resize
from histgen_lib.slides.settings import Level, TileBatch, TileGrid

_BLOCK_TILES = 4
_MOST_THREADS = 4
_MOST_CHUNK_BYTES = 96 << 20
_MOST_SOURCE_PX = 2048
_LEVEL_TOLERANCE = 1.02
"""A level may be this much coarser than asked for: a 2.0005-fold level serves a 2-fold reduction."""
_LEAST_USE = 0.4
"""Least part of a block that must be wanted tiles; below it they are read one by one."""


class Reads(Protocol):
    """Anything with OpenSlide's way of reading, giving uint8[height,width,3] RGB."""

    def read(self, x: int, y: int, level: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read part of a level; the corner is in level-0 px."""


def best_level(levels: Sequence[Level], factor: float) -> int:
    """Return the coarsest level from which a reduction by `factor` needs no enlargement (beyond 2 %)."""
    fine = [index for index, level in enumerate(levels) if level.downsample <= factor * _LEVEL_TOLERANCE]
    return max(fine, key=lambda index: levels[index].downsample, default=0)


def read_scaled(
    pixels: Reads, levels: Sequence[Level], corner: tuple[int, int], out_size: tuple[int, int], factor: float
) -> NDArray[np.uint8]:
    """Read `out_size` (w, h) px from `corner` (level-0 px), each `factor` level-0 px wide → uint8[h,w,3] RGB.

    Places are exact to half a pixel of the level that is read.
    """
    level = best_level(levels, factor)
    by = levels[level].downsample
    x, y = (round(round(place / by) * by) for place in corner)
    width, height = (max(1, round(side * factor / by)) for side in out_size)
    return resize(pixels.read(x, y, levels[level].number, width, height), *out_size)


def read_overview(pixels: Reads, levels: Sequence[Level], factor: float) -> NDArray[np.uint8]:
    """Read the whole slide reduced by `factor`, in pieces → uint8[h,w,3] RGB, white past its edges."""
    by = levels[best_level(levels, factor)].downsample
    out_w, out_h = (int(np.ceil(side / factor)) for side in levels[0].size)
    piece = max(1, int(_MOST_SOURCE_PX * by / factor))
    picture = np.full((out_h, out_w, 3), 255, np.uint8)

    def fill(left: int, top: int) -> None:
        size = (min(piece, out_w - left), min(piece, out_h - top))
        corner = (round(left * factor), round(top * factor))
        picture[top : top + size[1], left : left + size[0]] = read_scaled(
            pixels, levels, corner, size, factor
        )

    corners = [(left, top) for top in range(0, out_h, piece) for left in range(0, out_w, piece)]
    with ThreadPoolExecutor(min(_MOST_THREADS, cores())) as pool:
        list(pool.map(lambda corner: fill(*corner), corners))
    return picture


def read_grid(
    pixels: Reads, levels: Sequence[Level], grid: TileGrid, *, batch_size: int, threads: int | None
) -> Generator[TileBatch, None, None]:
    """Yield the grid's tiles in its order as batches of `batch_size`; see `Slide.read_tiles`."""
    waiting: list[NDArray[np.uint8]] = []
    start = 0
    for tiles in _chunks_of_tiles(pixels, levels, grid, threads or min(_MOST_THREADS, cores())):
        waiting.append(tiles)
        while sum(map(len, waiting)) >= batch_size:
            merged = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            yield TileBatch(merged[:batch_size], grid.xy[start : start + batch_size])
            start += batch_size
            waiting = [merged[batch_size:]]
    if start < len(grid):
        yield TileBatch(np.concatenate(waiting), grid.xy[start:])


def _chunks_of_tiles(
    pixels: Reads, levels: Sequence[Level], grid: TileGrid, threads: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield the pixels of consecutive runs of tiles, the next run being read while one is used."""
    shape = (grid.tile_px, grid.tile_px, 3)
    pending: deque[tuple[NDArray[np.uint8], list[Future[None]]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for chunk in _chunks(grid):
            tiles = np.empty((len(chunk), *shape), np.uint8)
            jobs = [
                pool.submit(_read_block, pixels, levels, grid, chunk=chunk, members=members, tiles=tiles)
                for members in _blocks(grid, chunk)
            ]
            pending.append((tiles, jobs))
            if len(pending) > 1:
                yield _finished(*pending.popleft())
        while pending:
            yield _finished(*pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(tiles: NDArray[np.uint8], jobs: list[Future[None]]) -> NDArray[np.uint8]:
    for job in jobs:
        job.result()
    return tiles


def _chunks(grid: TileGrid) -> list[range]:
    """Cut the grid's order into runs that share a band of `_BLOCK_TILES` rows and fit into memory."""
    most = max(1, _MOST_CHUNK_BYTES // (grid.tile_px**2 * 3))
    band = np.floor(grid.xy[:, 1] / (_BLOCK_TILES * grid.span_px))
    cuts = [0, *(np.flatnonzero(np.diff(band)) + 1).tolist(), len(grid)]
    return [
        range(start, min(start + most, stop))
        for first, stop in pairwise(cuts)
        for start in range(first, stop, most)
    ]


def _blocks(grid: TileGrid, chunk: range) -> list[NDArray[np.int64]]:
    """Group a run's tiles (their positions in it) into squares of `_BLOCK_TILES` tiles a side."""
    xy = grid.xy[chunk.start : chunk.stop]
    cells = np.floor(xy / (_BLOCK_TILES * grid.span_px)).astype(np.int64)
    _, groups = np.unique(cells, axis=0, return_inverse=True)
    blocks: list[NDArray[np.int64]] = []
    for group in range(int(groups.max(initial=-1)) + 1):
        members = np.flatnonzero(groups.ravel() == group)
        blocks.extend([members] if _dense(xy[members], grid.span_px) else np.split(members, len(members)))
    return blocks


def _dense(xy: NDArray[np.int32], span_px: float) -> bool:
    width, height = (xy.max(axis=0) - xy.min(axis=0) + span_px).tolist()
    return bool(len(xy) * span_px**2 >= _LEAST_USE * width * height)


def _read_block(
    pixels: Reads,
    levels: Sequence[Level],
    grid: TileGrid,
    *,
    chunk: range,
    members: NDArray[np.int64],
    tiles: NDArray[np.uint8],
) -> None:
    """Read one square of tiles at once and put each tile into its place in `tiles`."""
    factor = grid.span_px / grid.tile_px
    xy = grid.xy[chunk.start : chunk.stop][members]
    corner = xy.min(axis=0)
    places = np.rint((xy - corner) / factor).astype(np.int64)
    width, height = (places.max(axis=0) + grid.tile_px).tolist()
    block = read_scaled(pixels, levels, (int(corner[0]), int(corner[1])), (width, height), factor)
    for member, (left, top) in zip(members.tolist(), places.tolist(), strict=True):
        tiles[member] = block[top : top + grid.tile_px, left : left + grid.tile_px]
