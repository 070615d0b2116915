"""Compressed tiles as they lie in a slide's files, and how to tell damaged ones from whole ones.

Decoders turn damage into garbage and hardly complain. JPEG is decoded with every warning treated as an error,
except for padding before its end, which costs no pixel. Sectors that a disk or a copy lost are zeros, which
decode to stripes without a warning; intact data has fewer in a row.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray

from histgen_lib.slides.headers.jpeg import FRAMES, segments
from histgen_lib.slides.limits import MOST_TILE_BYTES

Check = Callable[[bytes], bool]
"""Returns whether the bytes of one compressed tile are whole."""
Box = tuple[int, int, int, int]
"""Left, top, right and bottom."""

_ZEROS = bytes(32)
_LOST_SECTOR = bytes(512)
"""JPEG 2000 writes a zero byte for each packet of an empty tile, so some hundred in a row are not damage."""
_END = b"\xff\xd9"
_PADDING_STEPS = 2
"""Padding is removed in two steps, because libjpeg does not count what it has read ahead."""
_PADDING = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
_NOT_OURS = re.compile("unsupported|not supported|not implemented|precision", re.IGNORECASE)
"""What libjpeg says about kinds of JPEG that it cannot decode, damaged or not."""
_MOST_COMPONENTS, _MOST_PARTS = 4, 1024
_TABLES, _PROGRESSIVE = 0xC4, 0xC2


@dataclass(frozen=True, eq=False)
class StoredTiles:
    """The compressed tiles of one level. Tile i has `byte_counts`[i] bytes (0: left out) from `offsets`[i].

    `path`: their file. `cells`: int64[rows, columns], which tile shows in each cell of the level; -1 for
    none. Each shows `tile_size` px; cells lie `step` px apart, which is less where tiles overlap. `is_whole`
    judges the bytes of a tile; None where only decoding tells. `sure`: whether it notices every change of
    many pixels.
    """

    path: Path
    tile_size: tuple[int, int]
    step: tuple[float, float]
    offsets: NDArray[np.int64]
    byte_counts: NDArray[np.int64]
    cells: NDArray[np.int64]
    is_whole: Check | None
    sure: bool = True

    def under(self, left: int, top: int, width: int, height: int) -> set[int]:
        """Return the tiles that show in a part of the level (level px)."""
        rows, columns = self._along(1, top, height), self._along(0, left, width)
        return set(np.unique(self.cells[rows.start : rows.stop, columns.start : columns.stop]).tolist()) - {
            -1
        }

    def boxes(self, number: int, rim: int) -> list[Box]:
        """Return where a tile shows, with a rim around it: a box (level px) for each of its cells."""
        (step_x, step_y), (width, height) = self.step, self.tile_size
        return [
            (
                floor(column * step_x) - rim,
                floor(row * step_y) - rim,
                ceil(column * step_x) + width + rim,
                ceil(row * step_y) + height + rim,
            )
            for row, column in np.argwhere(self.cells == number).tolist()
        ]

    def _along(self, axis: int, start: int, length: int) -> range:
        """Return the columns (axis 0) or rows whose tiles show in `length` px from `start`."""
        step, side = self.step[axis], self.tile_size[axis]
        first, beyond = floor((start - side) / step) + 1, ceil((start + length) / step)
        return range(max(0, first), max(0, min(self.cells.shape[1 - axis], beyond)))


def in_rows(count: int, across: int) -> NDArray[np.int64]:
    """Return the cells of tiles that are stored row by row: int64[rows, across]."""
    rows = -(-count // across)
    cells = np.full(rows * across, -1, np.int64)
    cells[:count] = np.arange(count)
    return cells.reshape(rows, across)


def decode_jpeg(data: bytes, *, small: bool = False) -> NDArray[np.uint8]:
    """Decode a JPEG to uint8[h,w,3] RGB; `small`: at an eighth of its size. Raises ValueError for damage."""
    if _has_lost_zeros(data):
        raise ValueError("a part of it is zeros")
    if _decoded_bytes(data) > MOST_TILE_BYTES:
        raise ValueError("larger than any tile")
    for _ in range(_PADDING_STEPS):
        try:
            return _decoded(data, small)
        except ValueError as error:
            data = _without_padding(data, error)
    return _decoded(data, small)


def is_whole_jpeg(data: bytes) -> bool:
    """Return whether a JPEG is free of known damage. Decodes it small, which reads all its data."""
    try:
        decode_jpeg(data, small=True)
    except ValueError as error:
        return bool(_NOT_OURS.search(str(error)))
    return True


def is_whole_jpeg_2000(data: bytes) -> bool:
    """Return whether a JPEG 2000 codestream has all its tile-parts and no lost sector. Misses noise in it."""
    try:
        return _LOST_SECTOR not in data.rstrip(b"\0") and _is_of_a_tile(data) and _ends_well(data)
    except (IndexError, struct.error):
        return False


def is_whole_deflate(data: bytes, size_bytes: int) -> bool:
    """Return whether data inflates to `size_bytes`, with a correct checksum if it has one."""
    inflating = zlib.decompressobj()
    try:
        return len(inflating.decompress(data, size_bytes + 1)) == size_bytes
    except zlib.error:
        return False


def _decoded(data: bytes, small: bool) -> NDArray[np.uint8]:
    size = {"min_height": 1, "min_width": 1, "min_factor": 8} if small else {}
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, strict=True, **size)
    return pixels


def _without_padding(data: bytes, error: ValueError) -> bytes:
    """Return the data without the padding that costs no pixel, to try again. Raises any other error."""
    padding = _PADDING.fullmatch(str(error))
    if padding:
        end = data.rindex(_END)
        start = end - int(padding[1])
        if len(set(data[start:end])) == 1:
            return data[:start] + _END
    raise error


def _has_lost_zeros(data: bytes) -> bool:
    scan = data.find(b"\xff\xda")
    found = data.find(_ZEROS, scan) if scan >= 0 else -1
    if found < 0 or _END in data[scan:found] or data[scan + 4] == 1:
        return False  # no zeros, or after the end, or a scan of one component, whose flat areas may be zeros
    return not _zeros_mean_flat(data[:scan])


def _zeros_mean_flat(head: bytes) -> bool:
    """Return whether zeros may encode flat blocks: with the tile's own tables, or in a progressive JPEG."""
    found = list(segments(head))
    if any(kind == _PROGRESSIVE for kind, _ in found):
        return True
    tables = b"".join(body for kind, body in found if kind == _TABLES)
    first: list[int] = []
    while len(tables) > 17:
        first.append(tables[17])  # the symbol whose code is all zeros
        tables = tables[17 + sum(tables[1:17]) :]
    return bool(first) and not any(first)


def _decoded_bytes(data: bytes) -> int:
    """Return how many bytes a JPEG claims to have once it is decoded to RGBA."""
    for kind, body in segments(data):
        if kind in FRAMES:
            return 4 * int.from_bytes(body[1:3], "big") * int.from_bytes(body[3:5], "big")
    return 0


def _is_of_a_tile(data: bytes) -> bool:
    """Return whether a codestream has the size (A.5.1) of a tile, few components and few parts."""
    right, bottom, left, top, width, height = struct.unpack_from(">6I", data, 8)
    (components,) = struct.unpack_from(">H", data, 40)
    across, down = right - left, bottom - top
    parts = -(-across // max(1, width)) * -(-down // max(1, height))
    return bool(
        4 * across * down <= MOST_TILE_BYTES and components <= _MOST_COMPONENTS and parts <= _MOST_PARTS
    )


def _ends_well(data: bytes) -> bool:
    """Follow the tile-parts of a codestream (ISO 15444-1, A.4.2) to its end."""
    place = 2
    if data[:2] != b"\xff\x4f":
        return False
    while data[place : place + 2] != b"\xff\x90":  # the main header's segments
        if data[place] != 0xFF:
            return False
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    while data[place : place + 2] == b"\xff\x90":
        length = int.from_bytes(data[place + 6 : place + 10], "big")
        if length == 0:  # up to the end
            return data.rstrip(b"\0").endswith(_END)
        place += length
    return place <= len(data) and data[place : place + 2] in (_END, b"")
