"""A picture of stained tissue on glass."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

GLASS = (243, 242, 244)


def stained(
    height: int, width: int, *, glass: tuple[int, int, int] = GLASS, seed: int = 0
) -> NDArray[np.uint8]:
    """Draw a pink, textured ellipse with violet nuclei in the middle of grainy glass."""
    rng = np.random.default_rng(seed)
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = glass
    body = np.zeros((height, width), np.uint8)
    cv2.ellipse(body, (width // 2, height // 2), (width * 3 // 10, height * 3 // 10), 0, 0, 360, 1, -1)
    stain = np.empty_like(picture)
    stain[:] = (0.88, 0.62, 0.78)
    nuclei = rng.random((height // 8 + 1, width // 8 + 1)) < 0.15
    nuclei = cv2.resize(nuclei.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    stain[nuclei] = (0.45, 0.30, 0.60)
    picture = np.where(body[..., None] > 0, picture * stain, picture)
    noise = rng.normal(0, 1.5, picture.shape) + rng.normal(0, 6, (height, width, 1)) * body[..., None]
    return np.clip(picture + noise, 0, 255).astype(np.uint8)
