"""A slide as OpenSlide reads it, each compressed tile checked for damage before it is shown.

OpenSlide drops what its decoders warn of, and answers damaged tiles with garbage. Where the compressed tiles
can be found in the file, those under a read are checked first; damaged ones come out white, and are told.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from math import ceil, floor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histgen_lib.cores import cores
from histgen_lib.slides._openslide import OpenSlideImage
from histgen_lib.slides._units import Units

_UNKNOWN, _WHOLE, _DAMAGED = 0, 1, 2
_WHITE = 255
_MOST_THREADS = 4


class CheckedImage:
    """Pixels by OpenSlide, checked. `locate` finds the compressed tiles by level, when first needed.

    Reading is safe from several threads.
    """

    def __init__(self, image: OpenSlideImage, locate: Callable[[], Mapping[int, Units]]) -> None:
        self.vendor, self.properties, self.levels = image.vendor, image.properties, image.levels
        self.read_unchecked = image.read
        self._image, self._locate = image, locate
        self._files: dict[Path, int] = {}
        self._states: dict[int, NDArray[np.uint8]] = {}
        self._lock = threading.RLock()

    def read(self, x: int, y: int, level: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read part of a level as `OpenSlideImage.read` does; damaged tiles are white."""
        units = self._units.get(level)
        if units is None or units.cells is None:
            return self.read_unchecked(x, y, level, width, height)
        by = self.levels[level].downsample
        part = (floor(x / by) - 1, floor(y / by) - 1, width + 3, height + 3)  # OpenSlide mixes neighbours
        under = units.under(*part)
        if all(self._is_whole(level, number) for number in under):
            return self.read_unchecked(x, y, level, width, height)
        cells = [cell for number in under if self._is_whole(level, number) for cell in under[number]]
        return self._read_cells(level, units.tile_size, cells, (floor(x / by), floor(y / by), width, height))

    def is_whole(self, x: int, y: int, level: int, width: int, height: int) -> bool:
        """Whether no damage is known of in part of a level; the corner is in level-0 px."""
        units = self._units.get(level)
        if units is None or units.cells is None:
            return True
        by = self.levels[level].downsample
        part = (round(x / by), round(y / by), width, height)
        return all(self._is_whole(level, number) for number in units.under(*part))

    def checks(self, level: int) -> bool:
        """Whether damage in a level is noticed."""
        return level in self._units and self._units[level].sure

    def damage_without_place(self, level: int) -> tuple[int, int]:
        """Check a level whose tiles are put in place by OpenSlide only: how many are damaged, of how many."""
        units = self._units.get(level)
        if units is None or units.cells is not None:
            return 0, 0
        with ThreadPoolExecutor(min(_MOST_THREADS, cores())) as pool:
            whole = list(pool.map(lambda number: self._is_whole(level, number), range(len(units.offsets))))
        return len(whole) - sum(whole), len(whole)

    def close(self) -> None:
        """Give the files back."""
        self._image.close()
        with self._lock:
            for handle in self._files.values():
                os.close(handle)
            self._files = {}

    @cached_property
    def _units(self) -> Mapping[int, Units]:
        with self._lock:
            return self._locate()

    def _read_cells(
        self,
        level: int,
        tile_size: tuple[int, int],
        cells: list[tuple[int, int]],
        part: tuple[int, int, int, int],
    ) -> NDArray[np.uint8]:
        """Read the sound cells of a part (level px) one by one, so that OpenSlide touches no other."""
        left, top, width, height = part
        region = np.full((height, width, 3), _WHITE, np.uint8)
        by = self.levels[level].downsample
        rim = 0 if float(by).is_integer() else 1  # a pixel of the neighbour would be mixed in
        for row, column in cells:
            x, y = column * tile_size[0] + rim, row * tile_size[1] + rim
            x0, y0 = max(left, x), max(top, y)
            x1, y1 = (
                min(left + width, x + tile_size[0] - 2 * rim),
                min(top + height, y + tile_size[1] - 2 * rim),
            )
            if x1 > x0 and y1 > y0:
                piece = self.read_unchecked(ceil(x0 * by), ceil(y0 * by), level, x1 - x0, y1 - y0)
                region[y0 - top : y1 - top, x0 - left : x1 - left] = piece
        return region

    def _is_whole(self, level: int, number: int) -> bool:
        units = self._units[level]
        states = self._states.setdefault(level, np.zeros(len(units.offsets), np.uint8))
        if states[number] == _UNKNOWN:
            states[number] = _WHOLE if self._check(units, number) else _DAMAGED
        return bool(states[number] == _WHOLE)

    def _check(self, units: Units, number: int) -> bool:
        offset, count = int(units.offsets[number]), int(units.byte_counts[number])
        if count == 0:
            return True
        try:
            data = os.pread(self._file(units.path), count, offset)
        except OSError:
            return True  # OpenSlide fails to read it, too, and says so
        return len(data) == count and units.is_whole(data)

    def _file(self, path: Path) -> int:
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return self._files[path]
