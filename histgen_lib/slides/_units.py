"""Where the compressed tiles of a slide's levels lie in its files, for those who check them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histgen_lib.slides._damage import Check


@dataclass(frozen=True, eq=False)
class Units:
    """The compressed tiles of one level, at byte `offsets`[i] of `path`, `byte_counts`[i] long; 0: left out.

    `cells`: int64[rows, columns], which of them shows in each cell of `tile_size` px of the level; -1 for
    none. None where nobody knows: overlapping tiles, put in place by the reader. `is_whole`: judges the bytes
    of one. `sure`: whether it notices whatever changes many pixels.
    """

    path: Path
    tile_size: tuple[int, int]
    offsets: NDArray[np.int64]
    byte_counts: NDArray[np.int64]
    cells: NDArray[np.int64] | None
    is_whole: Check
    sure: bool = True

    def under(self, left: int, top: int, width: int, height: int) -> dict[int, list[tuple[int, int]]]:
        """Find the compressed tiles that show in a part of the level (level px), and the cells of each."""
        assert self.cells is not None
        tile_w, tile_h = self.tile_size
        rows, columns = self.cells.shape
        found: dict[int, list[tuple[int, int]]] = {}
        for row in range(max(0, top // tile_h), min(rows, -(-(top + height) // tile_h))):
            for column in range(max(0, left // tile_w), min(columns, -(-(left + width) // tile_w))):
                found.setdefault(int(self.cells[row, column]), []).append((row, column))
        found.pop(-1, None)
        return found


def in_rows(count: int, across: int) -> NDArray[np.int64]:
    """Return the cells of tiles that are stored row by row: int64[rows, across]."""
    rows = -(-count // across)
    cells = np.full(rows * across, -1, np.int64)
    cells[:count] = np.arange(count)
    return cells.reshape(rows, across)
