"""Plain records of slides: levels, tiling settings, tile grids and batches of tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError


@dataclass(frozen=True)
class Level:
    """One resolution of a slide: `size` (width, height) in its own px, `downsample` relative to level 0.

    `number`: its index in the reader's levels; a slide's own levels may leave some out.
    """

    size: tuple[int, int]
    downsample: float
    number: int = 0


@dataclass(frozen=True)
class TilingSettings:
    """How a slide is cut into tiles.

    `tile_px`: side of a tile in pixels at `mpp` µm per pixel. `overlap_px`: pixels shared by neighbours.
    `min_tissue`: fraction of a tile's area (0…1) that must be tissue for the tile to be kept. Raises
    `InvalidInputError("tiling-settings-invalid")` for values outside their range.
    """

    tile_px: int = 256
    mpp: float = 0.5
    overlap_px: int = 0
    min_tissue: float = 0.15

    def __post_init__(self) -> None:
        wrong = [
            text
            for allowed, text in (
                (16 <= self.tile_px <= 4096, f"tile_px is {self.tile_px}, allowed: 16…4096"),
                (0.05 <= self.mpp <= 50, f"mpp is {self.mpp}, allowed: 0.05…50"),
                (
                    0 <= self.overlap_px < self.tile_px,
                    f"overlap_px is {self.overlap_px}, allowed: 0…tile_px-1",
                ),
                (0 <= self.min_tissue <= 1, f"min_tissue is {self.min_tissue}, allowed: 0…1"),
            )
            if not allowed
        ]
        if wrong:
            raise InvalidInputError(
                "tiling-settings-invalid",
                f"These tiling settings cannot be used: {'; '.join(wrong)}.",
                hint="Correct these settings.",
            )


@dataclass(frozen=True, eq=False)
class TileGrid:
    """Where the tiles of one slide lie, row by row from the top left.

    `xy`: int32[N,2], each tile's top-left corner in level-0 px; tiles may reach past the right and lower
    edge. `span_px`: side of a tile in level-0 px (not always whole). `tile_px`, `mpp`: side and scale of
    the tiles as read. `tissue`: float32[N], tissue fraction of each tile. `mask`: bool[h,w], the tissue
    mask, whose pixel (i, j) covers level-0 px [i, i+1) × `mask_downsample` down and [j, j+1) ×
    `mask_downsample` across.
    """

    xy: NDArray[np.int32]
    span_px: float
    tile_px: int
    mpp: float
    tissue: NDArray[np.float32]
    mask: NDArray[np.bool_]
    mask_downsample: float

    def __len__(self) -> int:
        return len(self.xy)

    def rows_at(self, xy: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return for each tile whether it lies at one of `xy` (int32[M,2])."""
        places = set(map(tuple, xy.tolist()))
        return np.array([tuple(place) in places for place in self.xy.tolist()], np.bool_)

    def only(self, rows: NDArray[np.bool_]) -> TileGrid:
        """Return the grid with only those tiles for which `rows` (bool[N]) holds."""
        return replace(self, xy=self.xy[rows], tissue=self.tissue[rows])


@dataclass(frozen=True, eq=False)
class TileBatch:
    """Some tiles of a grid: `pixels` uint8[B,tile_px,tile_px,3] RGB, `xy` int32[B,2] in level-0 px."""

    pixels: NDArray[np.uint8]
    xy: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.xy)
