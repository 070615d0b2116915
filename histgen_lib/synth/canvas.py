"""The painter's canvas: two stain planes and a class plane, all at 0.25 µm per pixel.

Paint covers what lies beneath; stamps add nuclei on top. Points and outlines are level-0 pixels (x, y).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from histgen_lib.synth.shapes import Points, jittered
from histgen_lib.synth.textures import ANGLES, PERIOD_PX, Bank, Plane, bank, textures

CLASSES: tuple[str, ...] = (
    "background", "fat", "collagen", "lamina_propria", "smooth_muscle", "desmoplasia", "hyaline",
    "breast_epithelium", "colon_epithelium", "gastric_epithelium", "prostate_epithelium",
    "bronchial_epithelium",
    "urothelium", "alveoli", "vessel", "blood", "lymphoid_aggregate",
    "fibroadenoma", "dcis", "adenoma_low", "adenoma_high", "goblet_metaplasia", "pin", "op_plug", "papillary",
    "breast_nst", "breast_mucinous", "colon_adenocarcinoma", "colon_mucinous", "gastric_intestinal",
    "gastric_poorly_cohesive", "prostate_acinar", "lung_adenocarcinoma", "lung_squamous", "lung_small_cell",
    "urothelial_carcinoma", "mucin", "keratin", "necrosis", "vessel_embolus", "lymphocytes_stroma",
    "lymphocytes_in_tumour", "abscess", "granuloma", "ink", "pen", "fold",
)  # fmt: skip
"""What a pixel can show. A class's number in the truth PNG is its position in this tuple."""

CLASS_ID: dict[str, int] = {name: number for number, name in enumerate(CLASSES)}

STROMA: tuple[str, ...] = ("collagen", "lamina_propria", "desmoplasia", "smooth_muscle", "fibroadenoma")
"""Classes in which inflammatory cells may lie."""


UM = 4
"""Pixels per micrometre."""

LOW = 16
"""Level-0 pixels per pixel of the low-resolution maps (4 µm)."""

Mask = NDArray[np.bool_]


class Canvas:
    """Haematoxylin `h`, eosin `e` and class `c`, uint8 [height, width]."""

    def __init__(self, size_px: tuple[int, int], rng: np.random.Generator) -> None:
        self.width, self.height = size_px
        self.rng = rng
        self.h: Plane = np.zeros((self.height, self.width), np.uint8)
        self.e: Plane = np.zeros_like(self.h)
        self.c: Plane = np.zeros_like(self.h)

    @property
    def low_shape(self) -> tuple[int, int]:
        """Shape of the low-resolution maps that cover the canvas."""
        return -(-self.height // LOW), -(-self.width // LOW)

    def fill(self, outline: Points, texture: str, cls: str | None) -> tuple[slice, slice, Mask] | None:
        """Paint a polygon; return its area (rows, columns, mask), or None if it lies outside."""
        low, high = np.floor(outline.min(0)).astype(int), np.ceil(outline.max(0)).astype(int) + 1
        x0, y0 = max(0, low[0]), max(0, low[1])
        x1, y1 = min(self.width, high[0]), min(self.height, high[1])
        if x0 >= x1 or y0 >= y1:
            return None
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(mask, [np.round(outline - (x0, y0)).astype(np.int32)], 1)
        area = slice(y0, y1), slice(x0, x1), mask.view(np.bool_)
        self._paint(area, texture, cls)
        return area

    def fill_low(self, low: NDArray[np.float32] | Mask, texture: str, cls: str | None) -> None:
        """Paint where a low-resolution field, smoothly enlarged, is above one half."""
        field = low
        rows, columns = np.flatnonzero((field > 0.3).any(1)), np.flatnonzero((field > 0.3).any(0))
        if not rows.size:
            return
        r0, r1 = max(0, rows[0] - 4), min(field.shape[0], rows[-1] + 5)
        c0, c1 = max(0, columns[0] - 4), min(field.shape[1], columns[-1] + 5)
        mask = enlarge(field[r0:r1, c0:c1], ((r1 - r0) * LOW, (c1 - c0) * LOW))
        y1, x1 = min(self.height, r1 * LOW), min(self.width, c1 * LOW)
        self._paint(
            (slice(r0 * LOW, y1), slice(c0 * LOW, x1), mask[: y1 - r0 * LOW, : x1 - c0 * LOW]), texture, cls
        )

    def _paint(self, area: tuple[slice, slice, Mask], texture: str, cls: str | None) -> None:
        rows, columns, mask = area
        tex_h, tex_e = textures()[texture]
        for y in range(rows.start, rows.stop, PERIOD_PX):
            for x in range(columns.start, columns.stop, PERIOD_PX):
                y1, x1 = min(y + PERIOD_PX, rows.stop), min(x + PERIOD_PX, columns.stop)
                part = mask[y - rows.start : y1 - rows.start, x - columns.start : x1 - columns.start]
                ty, tx = y % PERIOD_PX, x % PERIOD_PX
                source = slice(ty, ty + y1 - y), slice(tx, tx + x1 - x)
                weight = part.view(np.uint8)
                for plane, texture_plane in ((self.h, tex_h), (self.e, tex_e)):
                    view = plane[y:y1, x:x1]
                    cv2.copyTo(texture_plane[source], weight, view)
                if cls is not None:
                    self.c[y:y1, x:x1][part] = CLASS_ID[cls]

    def stamp(self, points: Points, kind: str, angles: NDArray[np.float64] | None = None) -> None:
        """Stamp nuclei of a kind centred on `points` (not those that would touch the canvas's edge)."""
        if not len(points):
            return
        sprites = bank(kind)
        numbers = self._orient(sprites, len(points), angles)
        for (x, y), number in zip(np.round(points).astype(int).tolist(), numbers, strict=True):
            if sprites.lower is not None:
                self._lower(x, y, sprites.lower)
            sprite = sprites.raise_h[number]
            half = sprite.shape[0] // 2
            if x < half or y < half:
                continue
            view = self.h[y - half : y + half, x - half : x + half]
            if view.shape == sprite.shape:
                cv2.max(view, sprite, view)

    def _orient(self, sprites: Bank, count: int, angles: NDArray[np.float64] | None) -> list[int]:
        variants = len(sprites.raise_h) // ANGLES
        if angles is None:
            return [int(v) for v in self.rng.integers(0, variants * ANGLES, count)]
        turns = np.round(np.asarray(angles) / np.pi * ANGLES).astype(int) % ANGLES
        return [int(v) for v in self.rng.integers(0, variants, count) * ANGLES + turns]

    def _lower(self, x: int, y: int, bound: Plane) -> None:
        half = bound.shape[0] // 2
        if x < half or y < half:
            return
        for plane in (self.h, self.e):
            view = plane[y - half : y + half, x - half : x + half]
            if view.shape == bound.shape:
                cv2.min(view, bound, view)

    def points_on(
        self,
        classes: tuple[str, ...],
        pitch_um: float,
        low: Mask | None = None,
        *,
        jitter: float = 0.3,
        keep: float = 1.0,
        min_eosin: int = 0,
    ) -> Points:
        """Return jittered grid points (level-0 px) on pixels of `classes`, within a low-resolution mask.

        `min_eosin` keeps points out of lumens and air, which share their wall's class.
        """
        box = low_box(low) if low is not None else (0, 0, self.width, self.height)
        points = jittered(box, pitch_um * UM, self.rng, jitter)
        points = points[((points >= 0) & (points < (self.width, self.height))).all(1)]
        where = points.astype(int)
        chosen = np.zeros(len(CLASSES), np.bool_)
        chosen[[CLASS_ID[name] for name in classes]] = True
        good = chosen[self.c[where[:, 1], where[:, 0]]]
        if low is not None:
            good &= low[where[:, 1] // LOW, where[:, 0] // LOW]
        if min_eosin:
            good &= self.e[where[:, 1], where[:, 0]] >= min_eosin
        if keep < 1:
            good &= self.rng.random(len(good)) < keep
        return np.asarray(points[good])

    def relabel(self, low: Mask, before: tuple[str, ...], after: str) -> None:
        """Change pixels of the classes `before` inside a low-resolution mask to the class `after`."""
        rows, columns = np.flatnonzero(low.any(1)), np.flatnonzero(low.any(0))
        if not rows.size:
            return
        table = np.arange(256, dtype=np.uint8)
        table[[CLASS_ID[name] for name in before]] = CLASS_ID[after]
        y, x = rows[0] * LOW, columns[0] * LOW
        part = low[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)
        view = self.c[y : y + part.shape[0] * LOW, x : x + part.shape[1] * LOW]
        mask = np.kron(part, np.ones((LOW, LOW), np.uint8))[: view.shape[0], : view.shape[1]]
        cv2.copyTo(cv2.LUT(np.ascontiguousarray(view), table), mask, view)


def enlarge(low: NDArray[np.float32] | Mask, shape: tuple[int, int]) -> Mask:
    """Return a low-resolution field at full resolution, thresholded at one half with smooth borders."""
    field = np.asarray(low, np.float32)
    if low.dtype == np.bool_:
        field = cv2.GaussianBlur(field, (0, 0), 1.3)
    levels = np.clip(field * 128, 0, 255).astype(np.uint8)
    big = cv2.resize(levels, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(big > 63)


def low_box(low: Mask) -> tuple[float, float, float, float]:
    """Return the level-0 bounding box (x0, y0, x1, y1) of a low-resolution mask."""
    rows, columns = np.flatnonzero(low.any(1)), np.flatnonzero(low.any(0))
    if not rows.size:
        return 0, 0, 0, 0
    return columns[0] * LOW, rows[0] * LOW, (columns[-1] + 1) * LOW, (rows[-1] + 1) * LOW
