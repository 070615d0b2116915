"""Reading many tiles fast: one large read for neighbouring tiles, several reads at a time.

The edges of a scanner's JPEG tiles are not those of our tiles. Read one by one along the rows of a wide
slide, our tiles decode those JPEGs again for each row they reach into; a block of 4 × 4 tiles decodes each
about once. Decoding releases Python's lock, so several blocks are read at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from histgen_lib.cores import cores
from histgen_lib.slides.readers import Reader
from histgen_lib.slides.settings import Level, TileBatch, TileGrid

_BLOCK_TILES = 4
_MOST_THREADS = 4
_MOST_CHUNK_BYTES = 96 << 20
_MOST_SOURCE_PX = 2048
_LEVEL_TOLERANCE = 1.02
"""A level may be this much coarser than required: a 2.0005-fold level serves a 2-fold reduction."""
_LEAST_USE = 0.4
"""Fraction of a block that tiles must cover; below it they are read one by one."""

_MOST_DAMAGED = 0.05
"""Fraction of a slide's tiles, or of its overview, that may be damaged; above it the slide is refused."""
_LEAST_PIECE = 8
"""Side (px of the overview) of the pieces for which a finer level is read."""

Part = tuple[int, int, int, int, int]
"""A part of a slide: corner x, y (level-0 px), level, width and height (px of the level)."""


def resize(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resample uint8[h,w,3] to `width` × `height` px: without aliasing when shrinking, else cubic."""
    if picture.shape[:2] == (height, width):
        return picture
    shrinking = width <= picture.shape[1] and height <= picture.shape[0]
    interpolation = cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    resized: NDArray[np.uint8] = cv2.resize(picture, (width, height), interpolation=interpolation)
    return resized


def best_level(levels: Sequence[Level], factor: float) -> int:
    """Return the coarsest level from which a reduction by `factor` needs no enlargement (beyond 2 %)."""
    fine = [index for index, level in enumerate(levels) if level.downsample <= factor * _LEVEL_TOLERANCE]
    return max(fine, key=lambda index: levels[index].downsample, default=0)


def read_scaled(
    reader: Reader, levels: Sequence[Level], corner: tuple[int, int], out_size: tuple[int, int], factor: float
) -> NDArray[np.uint8]:
    """Read `out_size` (w, h) px from `corner` (level-0 px), each `factor` level-0 px wide → uint8[h,w,3] RGB.

    Places are exact to half a pixel of the level that is read.
    """
    return resize(
        reader.read(*_part(levels, best_level(levels, factor), corner, out_size, factor)), *out_size
    )


def read_square(
    reader: Reader, levels: Sequence[Level], corner: tuple[int, int], span_px: float, out_px: int
) -> NDArray[np.uint8]:
    """Read a square of `span_px` level-0 px from `corner` → uint8[out_px,out_px,3] RGB, white past the edges.

    However large the square is, only what lies on the slide is read.
    """
    factor = span_px / out_px
    columns, rows = (
        inside(at, side, factor, out_px) for at, side in zip(corner, levels[0].size, strict=True)
    )
    picture = np.full((out_px, out_px, 3), 255, np.uint8)
    if columns and rows:
        start = round(corner[0] + columns.start * factor), round(corner[1] + rows.start * factor)
        part = read_scaled(reader, levels, start, (len(columns), len(rows)), factor)
        picture[rows.start : rows.stop, columns.start : columns.stop] = part
    return picture


def inside(at: float, side: int, factor: float, out_px: int) -> range:
    """Return which of `out_px` pixels from `at`, each `factor` px wide, lie on a picture of `side` px."""
    start, stop = (min(max(round((edge - at) / factor), 0), out_px) for edge in (0, side))
    return range(start, stop)


def _part(
    levels: Sequence[Level], level: int, corner: tuple[int, int], out_size: tuple[int, int], factor: float
) -> Part:
    by = levels[level].downsample
    x, y = (round(round(place / by) * by) for place in corner)
    width, height = (max(1, round(side * factor / by)) for side in out_size)
    return x, y, levels[level].number, width, height


def read_overview(
    reader: Reader, levels: Sequence[Level], factor: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read the whole slide reduced by `factor`, in pieces → uint8[h,w,3] RGB, white past its edges.

    Where the level for it is damaged, finer ones are read. Also returns bool[h,w]: what could not be read.
    """
    best = best_level(levels, factor)
    by = levels[best].downsample
    finer = sorted(range(len(levels)), key=lambda level: -levels[level].downsample)
    finer = [level for level in finer if levels[level].downsample <= by]
    out_w, out_h = (int(np.ceil(side / factor)) for side in levels[0].size)
    piece = max(1, int(_MOST_SOURCE_PX * by / factor))
    picture = np.full((out_h, out_w, 3), 255, np.uint8)
    lost = np.zeros((out_h, out_w), np.bool_)

    def fill(left: int, top: int, side: int = piece) -> None:
        size = (min(side, out_w - left), min(side, out_h - top))
        place = np.s_[top : top + size[1], left : left + size[0]]
        corner = (round(left * factor), round(top * factor))
        for level in finer if side <= _LEAST_PIECE else (best,):
            part = _part(levels, level, corner, size, factor)
            picture[place] = resize(reader.read(*part), *size)
            if reader.is_whole(*part):
                return
        if side <= _LEAST_PIECE:
            lost[place] = True
            return
        for down in range(top, top + size[1], -(-side // 2)):
            for across in range(left, left + size[0], -(-side // 2)):
                fill(across, down, -(-side // 2))

    corners = [(left, top) for top in range(0, out_h, piece) for left in range(0, out_w, piece)]
    with ThreadPoolExecutor(min(_MOST_THREADS, cores())) as pool:
        list(pool.map(lambda corner: fill(*corner), corners))
    return picture, lost


def read_grid(
    reader: Reader, levels: Sequence[Level], grid: TileGrid, *, batch_size: int, threads: int | None
) -> Generator[TileBatch, None, None]:
    """Yield the grid's tiles in its order as batches of `batch_size`; see `Slide.read_tiles`."""
    waiting: deque[TileBatch] = deque()
    for tiles in _chunks_of_tiles(reader, levels, grid, threads or min(_MOST_THREADS, cores())):
        waiting.append(tiles)
        while sum(map(len, waiting)) >= batch_size:
            merged = _merged(waiting)
            yield TileBatch(merged.pixels[:batch_size], merged.xy[:batch_size])
            waiting = deque([TileBatch(merged.pixels[batch_size:], merged.xy[batch_size:])])
    if any(map(len, waiting)):
        yield _merged(waiting)


def _merged(batches: Sequence[TileBatch]) -> TileBatch:
    if len(batches) == 1:
        return batches[0]
    return TileBatch(
        *(np.concatenate(parts) for parts in zip(*((b.pixels, b.xy) for b in batches), strict=True))
    )


def too_damaged(damaged: int, of: int) -> bool:
    """Return whether so much of a slide is damaged that the rest may mislead."""
    return damaged > _MOST_DAMAGED * of


def _chunks_of_tiles(
    reader: Reader, levels: Sequence[Level], grid: TileGrid, threads: int
) -> Iterator[TileBatch]:
    """Yield the undamaged tiles of consecutive runs; the next run is read while one is used."""
    pending: deque[Callable[[], TileBatch]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for chunk in _chunks(grid):
            pending.append(_begin(pool, reader, levels, grid, chunk))
            if len(pending) > 1:
                yield pending.popleft()()
        while pending:
            yield pending.popleft()()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(
    pool: ThreadPoolExecutor, reader: Reader, levels: Sequence[Level], grid: TileGrid, chunk: range
) -> Callable[[], TileBatch]:
    """Start reading a run of tiles. The returned function waits for them, and leaves out damaged ones."""
    tiles = np.empty((len(chunk), grid.tile_px, grid.tile_px, 3), np.uint8)
    whole = np.ones(len(chunk), np.bool_)
    jobs = [
        pool.submit(_read_block, reader, levels, grid, chunk=chunk, members=members, tiles=tiles, whole=whole)
        for members in _blocks(grid, chunk)
    ]

    def finish() -> TileBatch:
        for job in jobs:
            job.result()
        xy = grid.xy[chunk.start : chunk.stop]
        return TileBatch(tiles, xy) if whole.all() else TileBatch(tiles[whole], xy[whole])

    return finish


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
    reader: Reader,
    levels: Sequence[Level],
    grid: TileGrid,
    *,
    chunk: range,
    members: NDArray[np.int64],
    tiles: NDArray[np.uint8],
    whole: NDArray[np.bool_],
) -> None:
    """Read one square of tiles at once into their places in `tiles`; set in `whole` which are undamaged."""
    factor = grid.span_px / grid.tile_px
    xy = grid.xy[chunk.start : chunk.stop][members]
    corner = xy.min(axis=0)
    places = np.rint((xy - corner) / factor).astype(np.int64)
    width, height = (places.max(axis=0) + grid.tile_px).tolist()
    level, size = best_level(levels, factor), (grid.tile_px, grid.tile_px)
    part = _part(levels, level, (int(corner[0]), int(corner[1])), (width, height), factor)
    block = resize(reader.read(*part), width, height)
    sound = reader.is_whole(*part)
    for member, (left, top) in zip(members.tolist(), places.tolist(), strict=True):
        tiles[member] = block[top : top + grid.tile_px, left : left + grid.tile_px]
        x, y = grid.xy[chunk.start + member].tolist()
        whole[member] = sound or reader.is_whole(*_part(levels, level, (x, y), size, factor))
