"""The reference reader: OpenSlide, with each compressed tile checked for damage before it is shown.

OpenSlide ignores its decoders' warnings, and returns garbage for damaged tiles. Where the compressed tiles
can be found in the file, those under a read are checked first; damaged ones come out white and are reported.
So are those that OpenSlide fails on although the system can read their bytes.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from itertools import pairwise
from math import floor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides.formats import parts_of
from histgen_lib.slides.readers._dicom_frames import dicom_frames
from histgen_lib.slides.readers._openslide import OpenSlideImage
from histgen_lib.slides.readers._reader import Reader
from histgen_lib.slides.readers._stored_tiles import Box, StoredTiles
from histgen_lib.slides.readers._tiff_tiles import tiff_tiles

_UNKNOWN, _WHOLE, _DAMAGED = 0, 1, 2
_WHITE = 255
_INSIDE = 2
"""At this distance (px) from a tile's corner OpenSlide does not mix in its neighbours."""


def take(file: Path, reference: Reference) -> Reader:
    """Take every slide that OpenSlide reads. Raises as `open_checked`."""
    return reference()


def open_checked(file: Path) -> CheckedImage:
    """Open a slide's file by OpenSlide. Its compressed tiles are located when pixels are first read.

    Raises `InvalidInputError`: `slide-format-unknown`, `slide-not-supported`, `slide-incomplete`,
    `slide-damaged`, `slide-unreadable`, `slide-read-failed`.
    """
    image = OpenSlideImage(file)
    series = image.properties.get("dicom.SeriesInstanceUID")

    def find_tiles() -> Mapping[int, StoredTiles]:
        if series:
            return dicom_frames(parts_of(file, series), image.levels)
        return tiff_tiles(file, image.vendor, image.levels)

    return CheckedImage(image, find_tiles)


class CheckedImage:
    """Pixels by OpenSlide, checked. `find_tiles` locates the compressed tiles, by level, when first needed.

    Reading is safe from several threads.
    """

    def __init__(self, image: OpenSlideImage, find_tiles: Callable[[], Mapping[int, StoredTiles]]) -> None:
        self.vendor, self.properties, self.levels = image.vendor, image.properties, image.levels
        self.read_unchecked = image.read
        self._image, self._find_tiles = image, find_tiles
        self._files: dict[Path, int] = {}
        self._states: dict[int, NDArray[np.uint8]] = {}
        self._lock, self._closed = threading.RLock(), False

    def read(self, x: int, y: int, level: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read part of a level as `OpenSlideImage.read` does; damaged tiles are white."""
        stored = self._stored.get(level)
        if stored is None:
            return self.read_unchecked(x, y, level, width, height)
        by = self.levels[level].downsample
        left, top = floor(x / by), floor(y / by)
        under = stored.under(left - 1, top - 1, width + 3, height + 3)  # OpenSlide mixes neighbours
        damaged = {number for number in under if not self._is_whole(level, number)}
        try:
            return self._read_without(damaged, (x, y), level, (width, height))
        except InvalidInputError:
            found = {number for number in under - damaged if not self._can_be_decoded(level, number)}
            if not found:
                raise
        return self._read_without(damaged | found, (x, y), level, (width, height))

    def is_whole(self, x: int, y: int, level: int, width: int, height: int) -> bool:
        """Return whether no damage is known in a part of a level; the corner is in level-0 px."""
        stored = self._stored.get(level)
        if stored is None:
            return True
        by = self.levels[level].downsample
        part = (round(x / by), round(y / by), width, height)
        return all(self._is_whole(level, number) for number in stored.under(*part))

    def checks(self, level: int) -> bool:
        """Return whether damage in a level is noticed."""
        return level in self._stored and self._stored[level].sure

    def close(self) -> None:
        """Release the files."""
        self._image.close()
        with self._lock:
            self._closed = True
            for handle in self._files.values():
                os.close(handle)
            self._files = {}

    @cached_property
    def _stored(self) -> Mapping[int, StoredTiles]:
        with self._lock:
            return self._find_tiles()

    def _read_without(
        self, damaged: set[int], corner: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Read part of a level (corner in level-0 px, size in level px) without touching `damaged` tiles."""
        if not damaged:
            return self.read_unchecked(*corner, level, *size)
        stored, by = self._stored[level], self.levels[level].downsample
        rim = 0 if float(by).is_integer() and stored.step == stored.tile_size else 2
        boxes = [box for number in damaged for box in stored.boxes(number, rim)]
        left, top = (floor(place / by) for place in corner)
        return self._read_around(level, (left, top, left + size[0], top + size[1]), boxes)

    def _read_around(self, level: int, part: Box, boxes: list[Box]) -> NDArray[np.uint8]:
        """Read a part (level px) in pieces, so that OpenSlide touches nothing in `boxes`: they stay white."""
        left, top, right, bottom = part
        region = np.full((bottom - top, right - left, 3), _WHITE, np.uint8)
        by = self.levels[level].downsample
        for x0, x1 in pairwise(_cuts(left, right, [(box[0], box[2]) for box in boxes])):
            for y0, y1 in pairwise(_cuts(top, bottom, [(box[1], box[3]) for box in boxes])):
                if not any(a <= x0 < c and b <= y0 < d for a, b, c, d in boxes):
                    piece = self.read_unchecked(round(x0 * by), round(y0 * by), level, x1 - x0, y1 - y0)
                    region[y0 - top : y1 - top, x0 - left : x1 - left] = piece
        return region

    def _is_whole(self, level: int, number: int) -> bool:
        stored = self._stored[level]
        states = self._states.setdefault(level, np.zeros(len(stored.offsets), np.uint8))
        if states[number] == _UNKNOWN:
            states[number] = _WHOLE if self._check(stored, number) else _DAMAGED
        return bool(states[number] == _WHOLE)

    def _check(self, stored: StoredTiles, number: int) -> bool:
        if stored.is_whole is None or stored.byte_counts[number] == 0:
            return True
        try:
            data = self._bytes_of(stored, number)
        except OSError:
            return True  # OpenSlide will fail to read it, too, and say so
        return len(data) == stored.byte_counts[number] and stored.is_whole(data)

    def _can_be_decoded(self, level: int, number: int) -> bool:
        """Let OpenSlide decode one tile. If it fails on bytes that can be read, the tile is damaged."""
        stored, by = self._stored[level], self.levels[level].downsample
        left, top, _, _ = stored.boxes(number, 0)[0]
        x, y = (
            round(min(place + _INSIDE, side - 1) * by)
            for place, side in zip((left, top), self.levels[level].size, strict=True)
        )
        try:
            self.read_unchecked(x, y, level, 1, 1)
        except InvalidInputError:
            with suppress(OSError):
                self._bytes_of(stored, number)
                self._states[level][number] = _DAMAGED
                return False
        return True

    def _bytes_of(self, stored: StoredTiles, number: int) -> bytes:
        return os.pread(self._file(stored.path), int(stored.byte_counts[number]), int(stored.offsets[number]))

    def _file(self, path: Path) -> int:
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return self._files[path]


Reference = Callable[[], CheckedImage]
"""Opens the slide by OpenSlide, once however often it is called. Raises as `open_reader`."""

Take = Callable[[Path, Reference], Reader | None]
"""Opens a slide's file, or returns None for one that this reader does not take.

A reader that uses the reference closes it when it is closed itself.
"""


def _cuts(start: int, stop: int, spans: Iterable[tuple[int, int]]) -> list[int]:
    """Return `start`, `stop` and the ends of spans between them, in order."""
    return sorted({start, stop, *(end for span in spans for end in span if start < end < stop)})
