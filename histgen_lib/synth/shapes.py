"""Outlines and point patterns. Points are float64 [n, 2] as (x, y), in the unit the caller works in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def blob(
    centre: Points | tuple[float, float],
    radius: float,
    rng: np.random.Generator,
    *,
    wobble: float = 0.08,
    aspect: float = 1.0,
    angle: float = 0.0,
    lobes: int = 0,
    depth: float = 0.0,
    count: int = 44,
) -> Points:
    """Return a closed outline: an ellipse with low random harmonics and, on request, `lobes` infoldings."""
    theta = np.linspace(0, 2 * np.pi, count, endpoint=False)
    weights, phases = rng.standard_normal(4) * wobble / np.array([1, 1.3, 1.8, 2.5]), rng.uniform(0, 6.3, 5)
    r = np.ones(count) + sum(
        w * np.cos((k + 2) * theta + p) for k, (w, p) in enumerate(zip(weights, phases[:4], strict=True))
    )
    if lobes:
        r = r - depth * (1 - np.abs(np.sin(lobes * theta / 2 + phases[4]))) ** 1.3
    x, y = radius * r * np.cos(theta) * aspect**0.5, radius * r * np.sin(theta) / aspect**0.5
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(np.stack([x * c - y * s, x * s + y * c], 1) + np.asarray(centre))


def capsule(
    start: Points, end: Points, half_width: float, rng: np.random.Generator, *, wobble: float = 0.06
) -> Points:
    """Return a test-tube outline around the segment `start`..`end`, slightly wavy."""
    axis = np.asarray(end) - np.asarray(start)
    length = float(np.hypot(*axis))
    along = axis / max(length, 1e-6)
    across = np.array([-along[1], along[0]])
    steps = max(4, int(length / half_width * 1.5))
    t = np.linspace(0, length, steps)
    width = half_width * (1 + wobble * rng.standard_normal(steps))
    sway = half_width * 0.25 * np.sin(t / max(length, 1) * rng.uniform(3, 7) + rng.uniform(0, 6.3))
    turn = np.linspace(-np.pi / 2, np.pi / 2, 9)[1:-1]
    base = np.asarray(start) + t[:, None] * along + sway[:, None] * across
    cap = half_width * (np.cos(turn)[:, None] * along + np.sin(turn)[:, None] * across)
    return np.concatenate(
        [
            base - width[:, None] * across,
            base[-1] + cap,
            (base + width[:, None] * across)[::-1],
            base[0] - cap,
        ]
    )


def inset(outline: Points, depth: float | NDArray[np.float64]) -> Points:
    """Return the outline moved inwards by `depth` along its normals."""
    tangent = np.roll(outline, -1, 0) - np.roll(outline, 1, 0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
    normal /= np.maximum(np.hypot(normal[:, 0], normal[:, 1]), 1e-9)[:, None]
    return np.asarray(outline + normal * np.reshape(depth, (-1, 1)))


def walk(outline: Points, spacing: float, rng: np.random.Generator) -> tuple[Points, NDArray[np.float64]]:
    """Return jittered points every `spacing` along a closed outline, and the direction across it (rad)."""
    closed = np.concatenate([outline, outline[:1]])
    step = np.diff(closed, axis=0)
    at = np.concatenate([[0], np.cumsum(np.hypot(step[:, 0], step[:, 1]))])
    count = max(3, int(at[-1] / spacing))
    where = (np.arange(count) + rng.uniform(-0.18, 0.18, count)) * at[-1] / count % at[-1]
    points = np.stack([np.interp(where, at, closed[:, k]) for k in (0, 1)], 1)
    piece = np.minimum(np.searchsorted(at, where, side="right") - 1, len(step) - 1)
    return points, np.arctan2(step[piece, 1], step[piece, 0]) + np.pi / 2


def jittered(
    box: tuple[float, float, float, float], pitch: float, rng: np.random.Generator, jitter: float = 0.3
) -> Points:
    """Return a jittered hexagonal grid over (x0, y0, x1, y1)."""
    ys = np.arange(box[1], box[3], pitch * 0.87)
    xs = np.arange(box[0], box[2], pitch)
    if not len(xs) or not len(ys):
        return np.zeros((0, 2))
    x = xs[None, :] + (np.arange(len(ys)) % 2)[:, None] * pitch / 2
    points = np.stack([x, np.broadcast_to(ys[:, None], x.shape)], -1).reshape(-1, 2)
    return np.asarray(points + rng.uniform(-jitter, jitter, points.shape) * pitch)
