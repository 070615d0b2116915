"""Stain planes made once per process: tileable textures of tissue, and small sprites such as nuclei."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

PERIOD_PX = 768
"""Side of a texture before it repeats. Stored twice in each direction, so that any crop is a slice."""

Plane = NDArray[np.uint8]
Field = NDArray[np.float32]

ANGLES = 12
"""A bank holds each variant at this many orientations over half a turn; sprite = variant * ANGLES + angle."""


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
    """Return name to (haematoxylin, eosin), uint8 [2 * PERIOD_PX, 2 * PERIOD_PX] each; computed once."""
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


@dataclass(frozen=True)
class Nucleus:
    """How one kind of nucleus looks; lengths in µm, stain in 0..255."""

    width: float
    length: float
    stain: float
    rim: float = 25
    chromatin: float = 14
    grain_px: float = 2.2
    spread: float = 0.08
    irregular: float = 0.05
    nucleolus: float = 0.0
    variants: int = 8


KINDS: dict[str, Nucleus] = {
    "lymphocyte": Nucleus(6.0, 6.2, 196, rim=14, chromatin=24, spread=0.06),
    "spindle": Nucleus(3.2, 15, 130, rim=10),
    "muscle": Nucleus(2.8, 22, 120, rim=8),
    "endothelium": Nucleus(2.8, 12, 150, rim=8),
    "basal": Nucleus(5, 7.5, 150),
    "round": Nucleus(6.2, 6.8, 138),
    "columnar": Nucleus(4.6, 9, 145),
    "pencil": Nucleus(4.6, 14.5, 186, rim=14),
    "atypical": Nucleus(10.5, 12, 150, rim=45, chromatin=24, spread=0.16, irregular=0.09, nucleolus=2.4),
    "pin": Nucleus(7.5, 9.5, 176, rim=20, nucleolus=2.0),
    "urothelial": Nucleus(6.5, 9.5, 140),
    "grade1": Nucleus(6.2, 6.8, 150, rim=14, chromatin=10, spread=0.05, irregular=0.03),
    "grade2": Nucleus(8.5, 9.8, 142, rim=32, chromatin=17, spread=0.11, irregular=0.06, nucleolus=1.5),
    "grade3": Nucleus(
        11.5,
        13.5,
        138,
        rim=58,
        chromatin=32,
        grain_px=3,
        spread=0.24,
        irregular=0.12,
        nucleolus=3.2,
        variants=14,
    ),
    "small": Nucleus(7, 9.5, 186, rim=8, chromatin=10, grain_px=1.4, spread=0.14, irregular=0.1, variants=12),
    "crescent": Nucleus(3.8, 11, 190, rim=8),
    "epithelioid": Nucleus(5.4, 10.5, 104, rim=22, chromatin=8),
    "macrophage": Nucleus(6, 8, 112, rim=20),
    "debris": Nucleus(1.9, 2.2, 200, rim=0, spread=0.35, irregular=0.2),
}


@dataclass(frozen=True)
class Bank:
    """Square sprites of one kind: `lower` first bounds both stains, then `raise_h` raises haematoxylin."""

    raise_h: tuple[Plane, ...]
    lower: Plane | None = None


@cache
def bank(kind: str) -> Bank:
    """Return the bank of a kind; the same in every process."""
    rng = np.random.default_rng([20261, sum(kind.encode()), len(kind)])
    if kind == "mitosis":
        return Bank(_mitoses(rng), _clearing(9.5, 12))
    if kind == "til":
        return Bank(bank("lymphocyte").raise_h, _clearing(5.4, 6.4))
    if kind == "neutrophil":
        return Bank(_lobed(rng), None)
    if kind == "signet":
        return Bank(_signets(), _clearing(6.6, 7.6))
    if kind == "goblet":
        return Bank(_drops(), _clearing(5.6, 6.6))
    return Bank(_nuclei(KINDS[kind], rng), None)


def _grid(half_px: int, angle: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    axis = np.arange(-half_px, half_px, dtype=np.float32) + 0.5
    x, y = axis[None, :], axis[:, None]
    return x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)


def _nuclei(kind: Nucleus, rng: np.random.Generator) -> tuple[Plane, ...]:
    half = int(np.ceil(max(kind.width, kind.length) * 2 * (1 + 2 * kind.spread))) + 3
    sprites = []
    for _ in range(kind.variants):
        scale = float(
            np.clip(1 + kind.spread * rng.standard_normal(), 1 - 2 * kind.spread, 1 + 2 * kind.spread)
        )
        stain = kind.stain * (1 + 0.07 * rng.standard_normal())
        grain = smooth_noise((2 * half, 2 * half), kind.grain_px, rng) * kind.chromatin
        wobble = rng.standard_normal(3) * kind.irregular
        phase, spot = rng.uniform(0, 6.3, 3), rng.uniform(-0.3, 0.3, 2)
        for k in range(ANGLES):
            u, v = _grid(half, np.pi * k / ANGLES)
            a, b = kind.length * 2 * scale, kind.width * 2 * scale
            theta = np.arctan2(v / b, u / a)
            edge = 1 + sum(wobble[i] * np.cos((i + 2) * theta + phase[i]) for i in range(3))
            r = np.hypot(u / a, v / b) / edge
            inside = np.clip((1 - r) * b / 1.6, 0, 1)
            value = stain + grain + kind.rim * np.clip((r - 0.72) * 5, 0, 1)
            if kind.nucleolus:
                near = np.hypot(u - spot[0] * a, v - spot[1] * b) / (kind.nucleolus * 2)
                value = np.maximum(value, 240 * np.clip((1.1 - near) * 4, 0, 1))
            sprites.append(np.clip(value * inside, 0, 255).astype(np.uint8))
    return tuple(sprites)


def _mitoses(rng: np.random.Generator) -> tuple[Plane, ...]:
    """Metaphase plates and anaphase pairs, black and hairy."""
    sprites = []
    for variant in range(8):
        hair = smooth_noise((80, 80), 1.6, rng)
        for k in range(ANGLES):
            u, v = _grid(40, np.pi * k / ANGLES)
            if variant % 2:
                v = np.abs(v) - 11
            r = np.hypot(u / 21, v / (6.5 if variant % 2 else 9)) + 0.13 * hair
            sprites.append((255 * np.clip((1 - r) * 5, 0, 1)).astype(np.uint8))
    return tuple(sprites)


def _lobed(rng: np.random.Generator) -> tuple[Plane, ...]:
    """Neutrophils: three small dark lobes."""
    sprites = []
    for _ in range(6):
        turn, reach = rng.uniform(0, 6.3), rng.uniform(5.5, 7.5)
        for k in range(ANGLES):
            u, v = _grid(20, np.pi * k / ANGLES)
            lobes = [
                np.hypot(u - reach * np.cos(turn + t), v - reach * np.sin(turn + t)) for t in (0, 1.9, 3.9)
            ]
            sprites.append((232 * np.clip(5.6 - np.minimum.reduce(lobes), 0, 1)).astype(np.uint8))
    return tuple(sprites)


def _signets() -> tuple[Plane, ...]:
    """Signet-ring cells: a thin rim and a nucleus pressed to one side of a clear vacuole."""
    sprites = []
    for side in (1, -1):
        for k in range(ANGLES):
            u, v = _grid(36, np.pi * k / ANGLES)
            r = np.hypot(u, v)
            rim = 62 * np.clip(3 - np.abs(r - 28), 0, 1)
            crescent = np.clip((30 - r) / 1.5, 0, 1) * np.clip((np.hypot(u - side * -17, v) - 31) / 1.5, 0, 1)
            sprites.append(np.clip(np.maximum(rim, 212 * crescent), 0, 255).astype(np.uint8))
    return tuple(sprites)


def _drops() -> tuple[Plane, ...]:
    """Goblet mucin: a pale blue drop with a fine outline."""
    sprites = []
    for k in range(ANGLES):
        u, v = _grid(32, np.pi * k / ANGLES)
        r = np.hypot(u / 24, v / 21)
        sprites.append(
            np.clip(np.where(r < 1, 30, 0) + 62 * np.clip(1 - np.abs(r - 1) * 10, 0, 1), 0, 255).astype(
                np.uint8
            )
        )
    return tuple(sprites)


def _clearing(inner_um: float, outer_um: float) -> Plane:
    """Return an upper bound for both stains: clear inside `inner_um`, unbounded beyond `outer_um` (radii)."""
    half = int(outer_um * 4) + 2
    u, v = _grid(half, 0)
    rise = np.clip((np.hypot(u, v) / 4 - inner_um) / (outer_um - inner_um), 0, 1)
    return np.asarray(22 + rise * 233, np.uint8)
