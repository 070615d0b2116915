"""Is this scan good enough to draft from? Measurements and flags, with every threshold stated.

| flag | raised when |
|---|---|
| `little-tissue` | tissue covers less than 0.2 mm² |
| `out-of-focus` | more than half of the looked-at tiles are blurred (sharpness below 0.02) |
| `partly-out-of-focus` | more than a fifth of them, up to half |
| `pen` | ink covers at least 0.02 mm² |
| `overexposed` | more than 20 % of tissue pixels have a colour channel at its end (255) |
| `underexposed` | empty glass is darker than 150 of 255 |
| `pale` | tissue is hardly coloured (mean colourfulness relative to glass below 0.08) |
| `enlarged` | the slide is more than 10 % coarser than the model's scale, so its tiles are enlarged |
| `damaged` | data in the file are damaged: tiles are left out, or part of the overview is lost |

Opening a slide (`Slide.flags`) may raise `levels-left-out`, where smaller levels do not show what level 0
shows, `scale-contradicted`, where the stated scale differs from the file's own by more than a fifth,
`scale-doubtful`, where the file contradicts its own scale, and `pixels-not-square`.

Sharpness is the variance of the Laplacian of grey divided by the variance of grey (+ 25), at the tiles'
scale. On sharp slides at 0.5 mpp nine tiles in ten have more than 0.1; blurred by 1 µm (Gaussian) the
median is below 0.02.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from histgen_lib.slides.grid import unread_tissue
from histgen_lib.slides.settings import TileGrid
from histgen_lib.slides.slide import Slide

LITTLE_TISSUE_MM2 = 0.2
BLURRED_SHARPNESS = 0.02
MOSTLY_BLURRED, PARTLY_BLURRED = 0.5, 0.2
PEN_MM2 = 0.02
OVEREXPOSED_FRACTION = 0.2
UNDEREXPOSED_BRIGHTNESS = 150.0
PALE_CHROMA = 0.08
ENLARGED = 1.1

_MOST_TILES = 48


DAMAGE = "damage of the file"
"""A check that some formats do not allow, because their compressed tiles cannot be found or judged."""
NEVER_CHECKED = ("folds", "bubbles")
"""What also spoils slides, but is not checked. Remove an entry once there is a check for it."""


@dataclass(frozen=True)
class QualityReport:
    """Measurements of one slide and the flags they raise (see this module's table).

    `sharpness`: median over the tiles looked at. `blurred_fraction`: of those tiles. `clipped_fraction`: of
    tissue pixels. `background_brightness`: 0…255. `colourfulness`: mean of tissue relative to glass, 0…1.
    `enlargement`: how many times coarser than the model's scale the slide is (1 or less: no enlargement).
    `damaged_tiles`: left out because the file is damaged there. `unseen_fraction`: of the overview, lost to
    damage. `damage_checked`: whether damage to the tiles would have been noticed. `tissue_unread_mm2`,
    `tissue_unread_fraction`: tissue that lies in no tile, and its share of all tissue.
    """

    flags: tuple[str, ...]
    tissue_mm2: float
    pen_mm2: float
    sharpness: float
    blurred_fraction: float
    clipped_fraction: float
    background_brightness: float
    colourfulness: float
    enlargement: float
    tiles_looked_at: int
    damaged_tiles: int = 0
    unseen_fraction: float = 0.0
    damage_checked: bool = True
    tissue_unread_mm2: float = 0.0
    tissue_unread_fraction: float = 0.0

    @property
    def checked(self) -> tuple[str, ...]:
        """What the slide was checked for, in words."""
        return tuple(check for check in CHECKS if check != DAMAGE or self.damage_checked)

    @property
    def not_checked(self) -> tuple[str, ...]:
        """What also spoils slides, and was not checked, in words."""
        return NEVER_CHECKED if self.damage_checked else (DAMAGE, *NEVER_CHECKED)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "flags": list(self.flags)}

    def without(self, grid: TileGrid, left_out: int) -> QualityReport:
        """Return the report of a slide of which `left_out` tiles are damaged; `grid` has the others."""
        unread = unread_tissue(grid).sum() / max(1, grid.mask.sum())
        report = replace(
            self,
            damaged_tiles=left_out,
            tissue_unread_mm2=_rounded(unread * self.tissue_mm2),
            tissue_unread_fraction=_rounded(unread),
        )
        measured = {rule.flag for rule in RULES}
        others = (flag for flag in self.flags if flag not in measured)
        return replace(report, flags=(*flags_of(report), *others))


@dataclass(frozen=True)
class Rule:
    """One row of this module's table: the flag, when it is raised, and which check it belongs to."""

    check: str
    flag: str
    holds: Callable[[QualityReport], bool]


RULES = (
    Rule("amount of tissue", "little-tissue", lambda r: r.tissue_mm2 < LITTLE_TISSUE_MM2),
    Rule("focus", "out-of-focus", lambda r: r.blurred_fraction > MOSTLY_BLURRED),
    Rule("focus", "partly-out-of-focus", lambda r: PARTLY_BLURRED < r.blurred_fraction <= MOSTLY_BLURRED),
    Rule("ink", "pen", lambda r: r.pen_mm2 >= PEN_MM2),
    Rule("exposure", "overexposed", lambda r: r.clipped_fraction > OVEREXPOSED_FRACTION),
    Rule("exposure", "underexposed", lambda r: r.background_brightness < UNDEREXPOSED_BRIGHTNESS),
    Rule("stain", "pale", lambda r: r.colourfulness < PALE_CHROMA),
    Rule("resolution", "enlarged", lambda r: r.enlargement > ENLARGED),
    Rule(DAMAGE, "damaged", lambda r: r.damaged_tiles > 0 or r.unseen_fraction > 0),
)
CHECKS = tuple(dict.fromkeys(rule.check for rule in RULES))
"""The checks that are made, in words."""


def assess_quality(slide: Slide, grid: TileGrid) -> QualityReport:
    """Measure tissue, ink, focus and exposure of a slide on its overview and up to 48 tiles of `grid`.

    Deterministic. Raises `InvalidInputError("slide-read-failed")`.
    """
    picture, downsample = slide.overview
    found = slide.tissue_map
    pixel_mm2 = (downsample * slide.mpp / 1000) ** 2
    tissue_px, unread_px = int(found.tissue.sum()), int(unread_tissue(grid).sum())
    tiles = _some_tiles(slide, grid)
    sharpness = np.array([tile_sharpness(tile) for tile in tiles])
    report = QualityReport(
        flags=(),
        tissue_mm2=_rounded(tissue_px * pixel_mm2),
        pen_mm2=_rounded(found.pen.sum() * pixel_mm2),
        sharpness=_rounded(np.median(sharpness)),
        blurred_fraction=_rounded((sharpness < BLURRED_SHARPNESS).mean()),
        clipped_fraction=_rounded(_clipped(tiles, found.background)),
        background_brightness=_rounded(np.mean(found.background)),
        colourfulness=_rounded(_colourfulness(picture[found.tissue], found.background)),
        enlargement=_rounded(slide.mpp / grid.mpp),
        tiles_looked_at=len(tiles),
        unseen_fraction=_rounded(slide.unseen),
        damage_checked=slide.notices_damage(grid),
        tissue_unread_mm2=_rounded(unread_px * pixel_mm2),
        tissue_unread_fraction=_rounded(unread_px / max(1, tissue_px)),
    )
    return replace(report, flags=(*flags_of(report), *slide.flags))


def flags_of(report: QualityReport) -> tuple[str, ...]:
    """Return the flags that the report's measurements raise, in the order of this module's table."""
    return tuple(rule.flag for rule in RULES if rule.holds(report))


def tile_sharpness(tile: NDArray[np.uint8]) -> float:
    """Return how sharp uint8[h,w,3] RGB is; see the docstring of this module for the scale."""
    grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var() / (grey.var() + 25))


def _some_tiles(slide: Slide, grid: TileGrid) -> NDArray[np.uint8]:
    """Read tiles spread evenly over those that are at least half tissue (over all, if there are none)."""
    full = np.flatnonzero(grid.tissue >= min(0.5, float(grid.tissue.max())))
    chosen = full[np.unique(np.linspace(0, len(full) - 1, _MOST_TILES).round().astype(int))]
    some = replace(grid, xy=grid.xy[chosen], tissue=grid.tissue[chosen])
    return np.concatenate([batch.pixels for batch in slide.read_tiles(some, refuse=False)])


def _clipped(tiles: NDArray[np.uint8], background: tuple[float, float, float]) -> float:
    """Return the fraction of pixels darker than glass with a channel at 255; glass is often that bright."""
    red, green, blue = cv2.split(tiles.reshape(-1, *tiles.shape[2:]))
    stained = cv2.min(cv2.min(red, green), blue) < 0.85 * min(background)
    clipped = cv2.max(cv2.max(red, green), blue)[stained] == 255
    return float(clipped.mean()) if clipped.size else 0.0


def _colourfulness(colours: NDArray[np.uint8], background: tuple[float, float, float]) -> float:
    relative = np.clip(colours / np.asarray(background), 0, 1)
    return float((relative.max(axis=1) - relative.min(axis=1)).mean()) if len(colours) else 0.0


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), 4)
