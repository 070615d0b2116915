"""Changing the size of a picture without aliasing."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def resize(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resample uint8[h,w,3] to `width` × `height` px: mean of the covered area when shrinking, cubic else."""
    if picture.shape[:2] == (height, width):
        return picture
    shrinking = width <= picture.shape[1] and height <= picture.shape[0]
    how = cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    resized: NDArray[np.uint8] = cv2.resize(picture, (width, height), interpolation=how)
    return resized
