"""Ink, and mild artefacts of preparation and scanning; none covers tissue that decides a field."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from histgen_lib.synth.canvas import CLASSES, LOW, UM, Canvas, Mask
from histgen_lib.synth.scene import Scene, distance_um
from histgen_lib.synth.shapes import blob
from histgen_lib.synth.textures import smooth_noise

Image = NDArray[np.uint8]

COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (28, 26, 30),
    "blue": (24, 48, 150),
    "green": (18, 104, 62),
}


def apply_ink(canvas: Canvas, image: Image, scene: Scene) -> None:
    """Draw the surgeon's ink along its sector of the edge."""
    if not scene.ink.any():
        return
    rng = scene.rng
    name = str(rng.choice(list(COLOURS)))
    ragged = scene.ink & (smooth_noise(scene.ink.shape, 2, rng) > -1.6)
    _overlay(image, ragged, COLOURS[name], 0.93, rng)
    canvas.relabel(ragged, CLASSES, "ink")


def spill_blood(canvas: Canvas, scene: Scene) -> None:
    """Paint spilled red cells on the glass beside the tissue, if the slide has this artefact."""
    if "blood" not in scene.spec.artefacts:
        return
    radius = scene.rng.uniform(60, 130)
    spot = _spot(scene, ~scene.tissue & ~scene.ink, radius + 14)
    if spot is not None:
        outline = blob((spot[0] * LOW, spot[1] * LOW), radius * UM, scene.rng, wobble=0.1)
        canvas.fill(outline, "rbc", "blood")


def apply(canvas: Canvas, image: Image, scene: Scene, protected: Mask) -> None:
    """Apply the slide's artefacts outside `protected`."""
    free = ~protected
    for name in scene.spec.artefacts:
        handler = _HANDLERS.get(name)
        if handler is not None:
            handler(canvas, image, scene, free)


def _overlay(
    image: Image, low: Mask, rgb: tuple[int, int, int], alpha: float, rng: np.random.Generator
) -> None:
    """Blend a colour over a low-resolution mask, with uneven density."""
    rows, columns = np.flatnonzero(low.any(1)), np.flatnonzero(low.any(0))
    if not rows.size:
        return
    r0, r1 = max(0, rows[0] - 2), min(low.shape[0], rows[-1] + 3)
    c0, c1 = max(0, columns[0] - 2), min(low.shape[1], columns[-1] + 3)
    part = cv2.GaussianBlur(low[r0:r1, c0:c1].astype(np.float32), (0, 0), 0.7)
    part = part * np.clip(alpha + 0.05 * smooth_noise(part.shape, 2, rng), 0, 1)
    view = image[r0 * LOW : r1 * LOW, c0 * LOW : c1 * LOW]
    for y in range(0, view.shape[0], 512):
        for x in range(0, view.shape[1], 512):
            piece = part[y // LOW : y // LOW + 32, x // LOW : x // LOW + 32]
            if piece.any():
                block = view[y : y + 512, x : x + 512]
                big = cv2.resize(
                    piece, (piece.shape[1] * LOW, piece.shape[0] * LOW), interpolation=cv2.INTER_LINEAR
                )
                weight = big[: block.shape[0], : block.shape[1], None]
                block[:] = (block * (1 - weight) + np.array(rgb, np.float32) * weight).astype(np.uint8)


def _pen(canvas: Canvas, image: Image, scene: Scene, free: Mask) -> None:
    """Draw one felt-pen stroke near a border of the slide, over anything that is not decisive."""
    rng = scene.rng
    h, w = free.shape
    stroke = np.zeros((h, w), np.uint8)
    t = np.linspace(0, 1, 30)
    along, across = 0.1 + 0.8 * t, rng.uniform(0.03, 0.1) + 0.03 * np.sin(t * rng.uniform(3, 8))
    u, v = (along, across) if rng.random() < 0.5 else (across, along)
    if rng.random() < 0.5:
        u, v = 1 - u, 1 - v
    points = np.round(np.stack([u * w, v * h], 1)).astype(np.int32)
    cv2.polylines(stroke, [points], False, 1, int(rng.uniform(18, 34)))
    name = str(rng.choice(list(COLOURS)))
    mask = stroke.view(np.bool_) & free
    _overlay(image, mask, COLOURS[name], 0.72, rng)
    canvas.relabel(mask, ("background",), "pen")


def _fold(canvas: Canvas, image: Image, scene: Scene, free: Mask) -> None:
    """Darken a strip where the section is folded over."""
    place = _strip(scene, free)
    if place is None:
        return
    _multiply(image, place & scene.tissue, 0.62)
    canvas.relabel(place & scene.tissue, CLASSES[1:], "fold")


def _strip(scene: Scene, free: Mask) -> Mask | None:
    rng = scene.rng
    rows, columns = np.nonzero(free & scene.tissue)
    if not rows.size:
        return None
    k = int(rng.integers(rows.size))
    angle = rng.uniform(0, np.pi)
    half = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(50, 90)
    strip = np.zeros(free.shape, np.uint8)
    ends = [tuple(int(v) for v in np.array([columns[k], rows[k]]) + s * half) for s in (-1, 1)]
    cv2.line(strip, ends[0], ends[1], 1, int(rng.uniform(5, 10)))
    return strip.view(np.bool_) & free


def _multiply(image: Image, low: Mask, factor: float) -> None:
    for y, x in zip(*np.nonzero(low), strict=True):
        view = image[y * LOW : (y + 1) * LOW, x * LOW : (x + 1) * LOW]
        view[:] = (view * factor).astype(np.uint8)


def _spot(scene: Scene, free: Mask, radius_um: float) -> tuple[int, int] | None:
    """Choose a low-resolution (x, y) whose disc is free of decisive tissue."""
    room = distance_um(free)
    rows, columns = np.nonzero(room > radius_um)
    if not rows.size:
        return None
    k = int(scene.rng.integers(rows.size))
    return int(columns[k]), int(rows[k])


def _blur(canvas: Canvas, image: Image, scene: Scene, free: Mask) -> None:
    """Put a patch out of focus."""
    radius = scene.rng.uniform(90, 150)
    spot = _spot(scene, free & scene.tissue, radius) or _spot(scene, free, radius)
    if spot is None:
        return
    r, x, y = int(radius * UM), spot[0] * LOW, spot[1] * LOW
    view = image[max(0, y - r) : y + r, max(0, x - r) : x + r]
    soft = cv2.blur(cv2.blur(view, (13, 13)), (13, 13))
    yy, xx = np.ogrid[: view.shape[0], : view.shape[1]]
    inside = (yy - view.shape[0] / 2) ** 2 + (xx - view.shape[1] / 2) ** 2 < (r * 0.95) ** 2
    cv2.copyTo(soft, inside.astype(np.uint8), view)


def _bubble(canvas: Canvas, image: Image, scene: Scene, free: Mask) -> None:
    """Draw an air bubble: a dark ring with a bright inner rim."""
    radius = scene.rng.uniform(70, 160)
    spot = _spot(scene, free, radius + 8)
    if spot is None:
        return
    centre = (spot[0] * LOW, spot[1] * LOW)
    cv2.circle(image, centre, int(radius * UM), (96, 96, 104), 14, cv2.LINE_AA)
    cv2.circle(image, centre, int(radius * UM) - 12, (226, 226, 230), 6, cv2.LINE_AA)


def _stripes(canvas: Canvas, image: Image, scene: Scene, free: Mask) -> None:
    """Darken the faint seams of a line scanner, one every 256 px."""
    phase = int(scene.rng.integers(0, 240))
    for x in range(phase, image.shape[1], 256):
        view = image[:, x : x + 10]
        cv2.subtract(view, (5, 5, 5, 0), view)


_HANDLERS = {"pen": _pen, "fold": _fold, "blur": _blur, "bubble": _bubble, "stripes": _stripes}
