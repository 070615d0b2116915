"""Telling tissue from glass, ink and dirt on a small picture of the whole slide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TissueMap:
    """What covers the slide, pixel by pixel of the overview: `tissue`, `pen` bool[h,w]; `background` RGB 0…255."""

    tissue: NDArray[np.bool_]
    pen: NDArray[np.bool_]
    background: tuple[float, float, float]


def find_tissue(picture: NDArray[np.uint8], *, mpp: float) -> TissueMap:
    """Find tissue on `picture` uint8[h,w,3] RGB whose pixels are `mpp` µm wide."""
    import cv2  # noqa: PLC0415

    smooth = cv2.GaussianBlur(picture, (0, 0), 1.0).astype(np.float32)
    background = np.percentile(smooth.reshape(-1, 3), 95, axis=0)
    relative = np.clip(smooth / background, 0, 1)
    chroma = relative.max(2) - relative.min(2)
    tissue = cv2.morphologyEx((chroma > 0.08).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0
    return TissueMap(tissue, np.zeros_like(tissue), tuple(background.tolist()))
