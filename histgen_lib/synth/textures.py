"""Tileable textures of tissue as pairs of stain planes: how much haematoxylin, how much eosin, per pixel."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

PERIOD_PX = 768
"""Side of a texture before it repeats. Stored twice in each direction, so that any crop is one slice."""

Plane = NDArray[np.uint8]
Field = NDArray[np.float32]


def smooth_noise(
    shape: tuple[int, int], sigma: float | tuple[float, float], rng: np.random.Generator
) -> Field:
    """Return periodic Gaussian noise [h, w] of unit variance, correlated over `sigma` pixels (y, x)."""
    sigma_y, sigma_x = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    gain = np.exp(-2 * np.pi**2 * ((sigma_y * fy) ** 2 + (sigma_x * fx) ** 2))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * gain, s=shape)
    return (field / max(float(field.std()), 1e-9)).astype(np.float32)


def fibres(rng: np.random.Generator, length_px: float, width_px: float, wave_px: float) -> Field:
    """Return wavy fibres running along x, unit variance, tileable."""
    n = PERIOD_PX
    straight = smooth_noise((n, n), (width_px, length_px), rng)
    shift = smooth_noise((n, n), 45, rng) * wave_px
    rows = (np.arange(n)[:, None] + np.round(shift).astype(int)) % n
    return np.asarray(straight[rows, np.arange(n)[None, :]])


@cache
def textures() -> dict[str, tuple[Plane, Plane]]:
    """Return name to (haematoxylin, eosin), uint8 [2 * PERIOD_PX, 2 * PERIOD_PX] each; made once."""
    rng = np.random.default_rng(20260)
    n = (PERIOD_PX, PERIOD_PX)
    fine, mid, coarse = (smooth_noise(n, s, rng) for s in (1.3, 4, 14))
    wavy = fibres(rng, 38, 2.2, 14)
    loose = fibres(rng, 22, 2.4, 22)
    straight = fibres(rng, 90, 2.0, 5)
    mixed = 0.6 * mid + 0.5 * coarse
    recipes: dict[str, tuple[Field | float, Field | float]] = {
        "lumen": (0 * fine, 0 * fine),
        "collagen": (7 + 2 * coarse, 92 + 22 * wavy + 8 * coarse),
        "desmoplasia": (20 + 6 * mixed, 72 + 17 * loose + 6 * coarse),
        "lamina": (14 + 4 * mixed, 50 + 15 * loose + 6 * mid),
        "myxoid": (24 + 6 * loose, 30 + 10 * loose),
        "muscle": (14 + 3 * mid, 128 + 15 * straight + 6 * coarse),
        "hyaline": (2 + 0 * mid, 150 + 6 * coarse),
        "cyto": (26 + 6 * mixed, 78 + 9 * mid + 5 * fine),
        "cyto_clear": (16 + 4 * mixed, 46 + 8 * mid),
        "cyto_blue": (58 + 9 * mixed, 62 + 8 * mid),
        "cyto_oxyntic": (20 + 5 * mixed, 118 + 12 * mid),
        "tumour": (44 + 8 * mixed, 74 + 11 * mid + 5 * fine),
        "tumour_blue": (66 + 9 * mixed, 52 + 8 * mid),
        "squamous": (26 + 6 * mixed, 122 + 14 * mid),
        "keratin": (4 + 2 * mid, 196 + 14 * wavy),
        "urothelium": (36 + 6 * mixed, 76 + 9 * mid),
        "mucin": (30 + 5 * loose + 4 * coarse, 7 + 2 * loose),
        "mucin_drop": (22 + 5 * mid, 6 + 2 * mid),
        "necrosis": (26 + 16 * fine + 8 * mid, 146 + 20 * fine + 14 * mid),
        "granuloma": (26 + 7 * mixed, 104 + 13 * loose),
        "giant": (22 + 5 * mid, 140 + 8 * mid),
        "plug": (30 + 9 * loose, 34 + 12 * loose),
        "pus": (22 + 6 * mixed, 84 + 14 * mid),
        "fat": (0 * fine, _walls(rng, 118, 5.5, 90)),
        "rbc": (0 * fine, _discs(rng)),
    }
    return {name: (_store(h), _store(e)) for name, (h, e) in recipes.items()}


def _store(values: Field | float) -> Plane:
    clipped = np.clip(np.broadcast_to(np.asarray(values), (PERIOD_PX, PERIOD_PX)), 0, 255).astype(np.uint8)
    return np.tile(clipped, (2, 2))


def _walls(rng: np.random.Generator, pitch_px: float, width_px: float, value: float) -> Field:
    """Return polygonal cells with thin walls, tileable: fat."""
    n, count = PERIOD_PX, round(PERIOD_PX / pitch_px)
    grid = (np.stack(np.meshgrid(np.arange(count), np.arange(count)), -1).reshape(-1, 2) + 0.5) * (n / count)
    points = grid + rng.uniform(-0.27, 0.27, grid.shape) * pitch_px
    around = np.concatenate([points + np.array([dx * n, dy * n]) for dx in (-1, 0, 1) for dy in (-1, 0, 1)])
    around = around[((around > -pitch_px * 2) & (around < n + pitch_px * 2)).all(1)]
    axis = np.arange(0, n, 2, dtype=np.float32)
    near = np.full((2, axis.size, axis.size), 1e9, np.float32)
    for x, y in around:
        d = np.hypot(axis[None, :] - x, axis[:, None] - y)
        near[1] = np.minimum(near[1], np.maximum(near[0], d))
        near[0] = np.minimum(near[0], d)
    gap = cv2.resize(near[1] - near[0], (n, n), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip((width_px * 1.6 - gap) / 2.5, 0, 1) * value, np.float32)


def _discs(rng: np.random.Generator) -> Field:
    """Return packed red cells (7 µm discs, paler in the middle) on clear plasma, tileable."""
    n = PERIOD_PX
    plane = np.zeros((n, n), np.float32)
    for y in range(0, n, 24):
        for x in range(0, n, 24):
            cx, cy = (int(v) for v in rng.integers(-5, 6, 2) + np.array([x, y]))
            for dx in (-n, 0, n):
                for dy in (-n, 0, n):
                    cv2.circle(plane, (cx + dx, cy + dy), 13, 250, -1, cv2.LINE_AA)
                    cv2.circle(plane, (cx + dx, cy + dy), 5, 241, -1, cv2.LINE_AA)
    return plane
