"""The fast path: decoding the JPEG tiles of TIFF-based slides directly, at about half of OpenSlide's cost.

It is used for a level only if that level is tiled baseline JPEG without gaps, and only after some of its
tiles came out as in OpenSlide. Everything else, and every doubt, is left to OpenSlide. A damaged tile comes
out white here as there, and is reported; it never shows as grey pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides.readers._checked import CheckedImage, Reference
from histgen_lib.slides.readers._openslide import read_failed
from histgen_lib.slides.readers._reader import Reader
from histgen_lib.slides.readers._stored_tiles import decode_jpeg
from histgen_lib.slides.settings import Level

_VENDORS = ("aperio", "generic-tiff")
"""OpenSlide's names of formats whose levels are plain TIFF pages, one a level."""
_JPEG, _RGB, _YCBCR = 7, 2, 6
_JPEG_TABLES_TAG = 347
_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""Adobe's marker with transform 0 (T.872, 6.5.3): the three components are R, G, B and not Y, Cb, Cr."""
_CACHE_BYTES = 96 << 20
_MOST_DIFFERENCE = 4  # grey values between this decoder and OpenSlide's, in tiles that are compared
_MOST_TRIED = 32
"""Tiles of a level that are tried before the level is left to OpenSlide as damaged."""
_MOST_PAGES = 64
"""Pages and levels that are considered, of possibly thousands; OpenSlide reads the others."""
_WHITE, _START = 255, b"\xff\xd8"


def take(file: Path, reference: Reference) -> Reader | None:
    """Take a TIFF-based slide that has levels of gapless JPEG tiles. Raises as the reference."""
    slow = reference()
    levels = tiled_levels(file, slow.levels) if slow.vendor in _VENDORS else {}
    return JpegTiffImage(file, slow, levels) if levels else None


@dataclass(frozen=True)
class TiledLevel:
    """Where the JPEG tiles of one level lie in the file. `head` is put before the data of each."""

    size: tuple[int, int]
    tile_size: tuple[int, int]
    offsets: tuple[int, ...]
    byte_counts: tuple[int, ...]
    head: bytes

    @property
    def tiles_across(self) -> int:
        """How many tiles one row of tiles has."""
        return -(-self.size[0] // self.tile_size[0])


class JpegTiffImage:
    """Pixels of a TIFF-based slide: fast where the file allows it, OpenSlide's elsewhere.

    Reads at whole pixels of a level: where OpenSlide interpolates, at levels whose factor is not whole, this
    takes the nearest pixel, which shifts the picture by less than one. Safe for several threads.
    """

    def __init__(self, path: Path, slow: CheckedImage, levels: Mapping[int, TiledLevel]) -> None:
        self._name = path.name
        self._slow = slow
        self._file = os.open(path, os.O_RDONLY)
        self.vendor, self.properties, self.levels = slow.vendor, slow.properties, slow.levels
        tile_bytes = max(level.tile_size[0] * level.tile_size[1] * 3 for level in levels.values())
        self._damaged: set[tuple[int, int]] = set()
        self._tile: Callable[[int, int], NDArray[np.uint8] | None] = lru_cache(
            max(16, _CACHE_BYTES // tile_bytes)
        )(self._decode)
        self._fast = dict(levels)
        try:
            self._fast = {number: level for number, level in levels.items() if self._agrees(number)}
        except BaseException:
            os.close(self._file)
            raise

    @property
    def fast_levels(self) -> frozenset[int]:
        """The levels that are read without OpenSlide."""
        return frozenset(self._fast)

    def read(self, x: int, y: int, level: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read part of a level as `CheckedImage.read` does: uint8[height,width,3] RGB."""
        tiled = self._fast.get(level)
        if tiled is None or self._file < 0:
            return self._slow.read(x, y, level, width, height)
        by = self.levels[level].downsample
        left, top = round(x / by), round(y / by)
        region = np.full((height, width, 3), _WHITE, np.uint8)
        for index, (tile_x, tile_y) in _tiles_under(tiled, left, top, width, height):
            tile = self._tile(level, index)
            if tile is not None:
                _paste(region, tile, (tile_x - left, tile_y - top), _inside(tiled, tile_x, tile_y))
        return region

    def is_whole(self, x: int, y: int, level: int, width: int, height: int) -> bool:
        """Return whether no damage is known in a part of a level, once that part was read."""
        tiled = self._fast.get(level)
        if tiled is None:
            return self._slow.is_whole(x, y, level, width, height)
        by = self.levels[level].downsample
        under = _tiles_under(tiled, round(x / by), round(y / by), width, height) if self._damaged else ()
        return not any((level, index) in self._damaged for index, _ in under)

    def checks(self, level: int) -> bool:
        """Return whether damage in a level is noticed."""
        return level in self._fast or self._slow.checks(level)

    def close(self) -> None:
        """Release the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._slow.close()

    def _decode(self, level: int, index: int) -> NDArray[np.uint8] | None:
        """Decode a tile of the file; if it is damaged, note that and return None."""
        tiled = self._fast[level]
        try:
            data = os.pread(self._file, tiled.byte_counts[index], tiled.offsets[index])
            if data[:2] == _START and len(data) == tiled.byte_counts[index]:
                tile = decode_jpeg(tiled.head + data[2:])
                if tile.shape[1::-1] == tiled.tile_size:
                    return tile
        except OSError as error:
            raise read_failed(self._name, error) from error
        except ValueError:
            pass
        self._damaged.add((level, index))
        return None

    def _agrees(self, number: int) -> bool:
        """Return whether the first and middle tile of a level are as in OpenSlide; if damaged, others."""
        count, whole = len(self._fast[number].offsets), float(self.levels[number].downsample).is_integer()
        tried = dict.fromkeys((0, *((count // 2,) if whole else ()), *range(1, min(count, _MOST_TRIED))))
        compared = (
            self._same_tile(number, index) for index in tried if self._tile(number, index) is not None
        )
        verdicts = list(islice((same for same in compared if same is not None), 2 if whole else 1))
        return bool(verdicts) and all(verdicts)

    def _same_tile(self, number: int, index: int) -> bool | None:
        """Compare a tile with OpenSlide's; None if OpenSlide cannot read it, or a damaged one next to it."""
        tiled, by = self._fast[number], self.levels[number].downsample
        x, y = (round(place * by) for place in _corner(tiled, index))
        width, height = _inside(tiled, *_corner(tiled, index))
        try:
            theirs = self._slow.read_unchecked(x, y, number, width, height)
        except InvalidInputError:
            return None
        ours = self.read(x, y, number, width, height)
        return int(np.abs(ours.astype(np.int16) - theirs).max()) <= _MOST_DIFFERENCE


def tiled_levels(path: Path, levels: tuple[Level, ...]) -> dict[int, TiledLevel]:
    """Return the levels of the TIFF at `path` that are gapless tiled JPEG, by number; {} for other files."""
    try:
        with tifffile.TiffFile(path) as file:
            pages = islice(file.pages, _MOST_PAGES)
            found = [_tiled_level(page) for page in pages if isinstance(page, tifffile.TiffPage)]
    except (tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError):
        return {}
    by_size = {level.size: level for level in reversed(found) if level is not None}
    numbered = enumerate(levels[:_MOST_PAGES])
    return {number: by_size[level.size] for number, level in numbered if level.size in by_size}


def _tiled_level(page: tifffile.TiffPage) -> TiledLevel | None:
    suits = page.is_tiled and page.compression == _JPEG and page.photometric in (_RGB, _YCBCR)
    plain = page.dtype == np.uint8 and page.samplesperpixel == 3 and page.planarconfig == 1
    if not (suits and plain and len(page.dataoffsets) and min(page.databytecounts) > 4):
        return None
    tables = page.tags.valueof(_JPEG_TABLES_TAG) or b"\xff\xd8\xff\xd9"
    return TiledLevel(
        size=(page.imagewidth, page.imagelength),
        tile_size=(page.tilewidth, page.tilelength),
        offsets=tuple(page.dataoffsets),
        byte_counts=tuple(page.databytecounts),
        head=tables[:2] + (_ADOBE_RGB if page.photometric == _RGB else b"") + tables[2:-2],
    )


def _tiles_under(
    level: TiledLevel, left: int, top: int, width: int, height: int
) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the number and corner (level px) of each tile that shows in a region."""
    tile_w, tile_h = level.tile_size
    columns = range(max(0, left // tile_w), -(-min(level.size[0], left + width) // tile_w))
    rows = range(max(0, top // tile_h), -(-min(level.size[1], top + height) // tile_h))
    for row in rows:
        for column in columns:
            yield row * level.tiles_across + column, (column * tile_w, row * tile_h)


def _corner(level: TiledLevel, index: int) -> tuple[int, int]:
    row, column = divmod(index, level.tiles_across)
    return column * level.tile_size[0], row * level.tile_size[1]


def _inside(level: TiledLevel, x: int, y: int) -> tuple[int, int]:
    """Return how much (w, h) of the tile at (x, y) belongs to the level; the rest is padding."""
    return min(level.tile_size[0], level.size[0] - x), min(level.tile_size[1], level.size[1] - y)


def _paste(
    region: NDArray[np.uint8], tile: NDArray[np.uint8], place: tuple[int, int], inside: tuple[int, int]
) -> None:
    """Copy the valid part of `tile` to `place` (x, y) in `region`, where they overlap."""
    left, top = max(0, place[0]), max(0, place[1])
    right, bottom = (
        min(end, start + size) for end, start, size in zip(region.shape[1::-1], place, inside, strict=True)
    )
    if right > left and bottom > top:
        x, y = left - place[0], top - place[1]
        region[top:bottom, left:right] = tile[y : y + bottom - top, x : x + right - left]
