"""Changes to a training tile that leave what it shows unchanged: orientation, stain, focus, noise."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
_RAMP = np.arange(256, dtype=np.float32) / 255


def augment_tile(pixels: Pixels, cells: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Turn, stain and scan a tile uint8[H, W, 3] otherwise, and turn its cells uint8[C, C] with it."""
    turns, mirrored = int(rng.integers(4)), bool(rng.random() < 0.5)
    changed = _stain(_turn(pixels, turns, mirrored), rng)
    if rng.random() < 0.15:
        changed = np.asarray(cv2.GaussianBlur(changed, (0, 0), rng.uniform(0.4, 1.0)), dtype=np.uint8)
    if rng.random() < 0.15:
        noise = rng.normal(0, rng.uniform(1, 5), changed.shape[:2]).astype(np.float32)
        changed = np.clip(changed + noise[..., None], 0, 255).astype(np.uint8)
    return changed, _turn(cells, turns, mirrored)


def _turn(square: Pixels, turns: int, mirrored: bool) -> Pixels:
    """One of the eight orientations of a square."""
    turned = np.rot90(square, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def _stain(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Per channel a power (stain strength), a gain (lamp) and, at times, a little mixing (hue)."""
    power = rng.uniform(0.8, 1.25) * rng.uniform(0.88, 1.14, 3)
    gain = rng.uniform(0.93, 1.05) * rng.uniform(0.97, 1.03, 3)
    table = np.clip(255 * gain * _RAMP[:, None] ** power, 0, 255).astype(np.uint8)
    changed = cv2.LUT(pixels, table[None])
    if rng.random() < 0.4:
        mixing = np.eye(3) + rng.uniform(-0.06, 0.06, (3, 3))
        mixing /= mixing.sum(axis=1, keepdims=True)
        changed = cv2.transform(changed, mixing)
    return np.asarray(changed, dtype=np.uint8)
