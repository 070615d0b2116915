"""Where the compressed tiles of a slide's levels lie in its files, for those who check them."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histgen_lib.slides._damage import Check

Box = tuple[int, int, int, int]
"""Left, top, right and bottom."""


@dataclass(frozen=True, eq=False)
class Units:
    """The compressed tiles of one level, at byte `offsets`[i] of `path`, `byte_counts`[i] long; 0: left out.

    `cells`: int64[rows, columns], which of them shows in each cell of the level; -1 for none. Each shows
    `tile_size` px; cells lie `step` px apart, less where tiles overlap. `is_whole`: judges the bytes of one;
    None where only decoding tells. `sure`: whether it notices whatever changes many pixels.
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
        """Find the compressed tiles that show in a part of the level (level px)."""
        rows, columns = self._along(1, top, height), self._along(0, left, width)
        return set(np.unique(self.cells[rows.start : rows.stop, columns.start : columns.stop]).tolist()) - {
            -1
        }

    def boxes(self, number: int, rim: int) -> list[Box]:
        """Return where a compressed tile shows, and a rim around it: a box (level px) for each cell."""
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
