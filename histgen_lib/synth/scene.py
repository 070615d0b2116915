"""Where things lie on a slide: tissue, ink, lesion and places for foci, as low-resolution maps (4 µm)."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from histgen_lib.synth.canvas import LOW, UM, Mask
from histgen_lib.synth.spec import SlideSpec
from histgen_lib.synth.textures import Field, smooth_noise

LOW_UM = LOW / UM
"""Micrometres a pixel of the low-resolution maps."""

EDGE_UM = 44.0
"""Decisive foci keep this far from the tissue's outer edge."""

INK_CLEARANCE_UM = 390.0
"""An uninvolved margin: tumour keeps this far from any ink (the report needs 350)."""


@dataclass
class Scene:
    """The layout; maps are [h, w] at 4 µm a pixel. `depth_um` is the distance to the tissue's outer edge."""

    spec: SlideSpec
    rng: np.random.Generator
    tissue: Mask
    depth_um: Field
    ink: Mask
    lesion: Mask
    angle: float
    seed_point: tuple[int, int]
    up: float
    taken: Mask = field(init=False)

    def __post_init__(self) -> None:
        self.taken = np.zeros_like(self.tissue)

    @property
    def normal(self) -> Mask:
        """Tissue outside the lesion."""
        return self.tissue & ~self.lesion

    def lesion_distance_um(self) -> Field:
        """Return the distance from the lesion, 0 inside (large everywhere when there is none)."""
        return away_um(self.lesion)

    def place(self, allowed: Mask, radius_um: float, gap_um: float = 12) -> tuple[float, float] | None:
        """Choose and reserve a centre (level-0 px) for a disc that fits into `allowed` and is not taken."""
        room = distance_um(allowed & ~self.taken)
        rows, columns = np.nonzero(room >= radius_um + gap_um)
        if not rows.size:
            return None
        k = int(self.rng.integers(rows.size))
        disc(self.taken, (columns[k], rows[k]), radius_um + gap_um)
        return float((columns[k] + 0.5) * LOW), float((rows[k] + 0.5) * LOW)

    def best_place(self, allowed: Mask, radius_um: float, gap_um: float = 8) -> tuple[float, float, float]:
        """Choose a place as `place` does, else the roomiest spot; return (x, y, radius that fits)."""
        spot = self.place(allowed, radius_um, gap_um)
        if spot is not None:
            return (*spot, radius_um)
        room = distance_um(allowed & ~self.taken)
        row, column = (int(v) for v in np.unravel_index(int(room.argmax()), room.shape))
        fits = float(min(radius_um, max(room[row, column] - gap_um, 8)))
        disc(self.taken, (column, row), fits + gap_um)
        return (column + 0.5) * LOW, (row + 0.5) * LOW, fits


def distance_um(mask: Mask) -> Field:
    """Return each pixel's distance to the nearest False pixel (the border counts as False), in µm."""
    padded = np.pad(mask.astype(np.uint8), 1)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1] * LOW_UM, np.float32)


def away_um(mask: Mask) -> Field:
    """Return each pixel's distance to the nearest True pixel, in µm; 10 000 everywhere when there is none."""
    if not mask.any():
        return np.full(mask.shape, 1e4, np.float32)
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5) * LOW_UM, np.float32)


def surface_side(scene: Scene) -> Field:
    """Return each pixel's position within its piece of tissue: 1 at the surface, -1 at the deep edge."""
    count, labels = cv2.connectedComponents(scene.tissue.astype(np.uint8), connectivity=4)
    side = np.zeros(scene.tissue.shape, np.float32)
    h, w = scene.tissue.shape
    y, x = np.mgrid[0:h, 0:w]
    for k in range(1, count):
        piece = labels == k
        dx, dy = x - x[piece].mean(), y - y[piece].mean()
        reach = np.sqrt(piece.sum() / np.pi)
        side[piece] = ((dx * np.cos(scene.up) + dy * np.sin(scene.up)) / reach)[piece]
    return side


def disc(mask: Mask, centre: tuple[float, float], radius_um: float) -> None:
    """Set a disc in a low-resolution mask; the centre is in its pixels."""
    low = mask.view(np.uint8)
    cv2.circle(low, (int(centre[0]), int(centre[1])), int(np.ceil(radius_um / LOW_UM)), 1, -1)


def disc_at(shape: tuple[int, int], centre_px: tuple[float, float], radius_um: float) -> Mask:
    """Return a low-resolution disc around a level-0 point."""
    mask = np.zeros(shape, np.bool_)
    disc(mask, (centre_px[0] / LOW, centre_px[1] / LOW), radius_um)
    return mask


def compose(spec: SlideSpec, rng: np.random.Generator) -> Scene:
    """Lay out a slide's tissue, ink and lesion."""
    shape = -(-spec.size_px[1] // LOW), -(-spec.size_px[0] // LOW)
    tissue = _tissue(spec, shape, rng)
    depth = distance_um(tissue)
    ink = _ink(tissue, depth, rng) if spec.excision else np.zeros_like(tissue)
    angle = float(rng.uniform(0, np.pi))
    up = angle + np.pi * float(rng.integers(2))
    if spec.excision:
        # The ink runs down one flank, from mucosa to muscle, so that a margin says nothing about depth.
        rows, columns = np.nonzero(ink)
        middle = np.argwhere(tissue).mean(0)
        up = float(np.arctan2(rows.mean() - middle[0], columns.mean() - middle[1])) + np.pi / 2 * rng.choice(
            [-1, 1]
        )
    scene = Scene(spec, rng, tissue, depth, ink, np.zeros_like(tissue), angle, (0, 0), up)
    if spec.diagnosis.lesion:
        _grow_lesion(scene)
    return scene


def _tissue(spec: SlideSpec, shape: tuple[int, int], rng: np.random.Generator) -> Mask:
    """Threshold a field of pieces so that tissue takes exactly its share of the slide."""
    h, w = shape
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    noise = smooth_noise(shape, 16, rng) * 5 + smooth_noise(shape, 5, rng) * 1.0
    if spec.excision:
        u, v = (x - w / 2) / (w / 2), (y - h / 2) / (h / 2)
        outline = (np.abs(u) ** 3.2 + np.abs(v) ** 3.2) ** (1 / 3.2) * min(w, h) / 2 + 0.5 * noise
    elif spec.fields["procedure"] == "core needle biopsy":
        outline = _cores(shape, x, y, rng) + 0.7 * noise
    else:
        outline = _fragments(shape, x, y, rng) + noise
    edge = np.minimum(np.minimum(x, w - 1 - x), np.minimum(y, h - 1 - y))
    outline = np.where(edge < 8, np.inf, outline + np.maximum(0, 30 - edge) ** 1.5 * 0.22)
    tissue = outline <= np.quantile(outline, spec.tissue_share)
    return _without_crumbs(tissue)


def _cores(shape: tuple[int, int], x: Field, y: Field, rng: np.random.Generator) -> Field:
    h, w = shape
    upright = h > w
    across, along, wide, long = (x, y, w, h) if upright else (y, x, h, w)
    count = max(2, round(wide * LOW_UM / 720))
    outline = np.full(shape, 1e9, np.float32)
    for k in range(count):
        middle = wide * (k + 0.5) / count + wide * 0.03 * np.sin(
            along / long * rng.uniform(2, 5) + rng.uniform(0, 6)
        )
        beyond = np.abs(along - long / 2) - long * rng.uniform(0.42, 0.46)
        outline = np.minimum(outline, np.hypot(across - middle, np.maximum(beyond + 30, 0)))
    return outline


def _fragments(shape: tuple[int, int], x: Field, y: Field, rng: np.random.Generator) -> Field:
    h, w = shape
    spots = [(0.41 + rng.uniform(-0.03, 0.03), 0.42 + rng.uniform(-0.03, 0.03), 1.0)]
    spots += [(0.87, rng.uniform(0.25, 0.75), 0.56), (rng.uniform(0.3, 0.65), 0.88, 0.52)][
        : rng.integers(1, 3)
    ]
    flip_x, flip_y = rng.random(2) < 0.5
    outline = np.full(shape, 1e9, np.float32)
    reach = min(h, w) * 0.5
    for u, v, size in spots:
        cx, cy = (1 - u if flip_x else u) * w, (1 - v if flip_y else v) * h
        outline = np.minimum(outline, np.hypot(x - cx, y - cy) - reach * size)
    return outline


def _without_crumbs(tissue: Mask) -> Mask:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(tissue.astype(np.uint8), connectivity=4)
    big = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] * LOW_UM**2 > 25_000]
    return np.isin(labels, big)


def _ink(tissue: Mask, depth: Field, rng: np.random.Generator) -> Mask:
    """Ink the block's edge over a sector of 90 to 140 degrees."""
    rows, columns = np.nonzero(tissue)
    h, w = tissue.shape
    y, x = np.mgrid[0:h, 0:w]
    bearing = np.arctan2(y - rows.mean(), x - columns.mean())
    centre, half = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(45, 70))
    turn = np.abs((bearing - centre + np.pi) % (2 * np.pi) - np.pi)
    outside = away_um(tissue)
    return np.asarray((turn < half) & (depth < 14) & (outside < 22))


def _grow_lesion(scene: Scene) -> None:
    """Grow the lesion from a seed over the nearest allowed tissue, with a ragged front."""
    spec, rng = scene.spec, scene.rng
    allowed = scene.tissue & (scene.depth_um > EDGE_UM)
    margins = spec.fields.get("margins")
    from_ink = away_um(scene.ink)
    if margins == "uninvolved":
        allowed &= from_ink > INK_CLEARANCE_UM
        near_edge = scene.tissue & (from_ink > INK_CLEARANCE_UM) & (rng.random() < 0.5)
        allowed |= near_edge
    elif margins == "involved":
        allowed |= scene.tissue
    if spec.diagnosis.lesion == "papillary":
        allowed = scene.tissue & (scene.depth_um > 10)
    if "muscularis propria not invaded" in spec.diagnosis.text:
        allowed &= surface_side(scene) > -0.08
    seed = _seed(scene, allowed, from_ink, margins == "involved")
    h, w = scene.tissue.shape
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    score = np.hypot(x - seed[1], y - seed[0]) + smooth_noise((h, w), 12, rng) * 7
    if margins == "involved":
        score = score - 25 * np.exp(-from_ink / 60)
    target = int(spec.lesion_share * scene.tissue.sum())
    if spec.diagnosis.lesion == "goblet_metaplasia":
        target = int(np.pi * (rng.uniform(130, 165) / LOW_UM) ** 2)
    reachable = _component(allowed, seed)
    values = np.sort(score[reachable])
    if not values.size:
        return
    grown = reachable & (score <= values[min(target, int(values.size * 0.9)) - 1])
    smooth = cv2.GaussianBlur(grown.astype(np.float32), (0, 0), 2) > 0.5
    scene.lesion = _component(smooth & allowed, seed)
    scene.seed_point = seed


def _seed(scene: Scene, allowed: Mask, from_ink: Field, at_ink: bool) -> tuple[int, int]:
    room = distance_um(allowed)
    weight = (room > min(150, 0.85 * float(room.max()))) & _component_of_most(allowed)
    if at_ink:
        weight = allowed & (from_ink < 60) & (from_ink > 20)
    if not weight.any():
        weight = room >= room.max()
    rows, columns = np.nonzero(weight)
    k = int(scene.rng.integers(rows.size))
    return int(rows[k]), int(columns[k])


def _component_of_most(mask: Mask) -> Mask:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count < 2:
        return mask
    return np.asarray(labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))


def _component(mask: Mask, point: tuple[int, int]) -> Mask:
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    here = labels[point]
    return np.asarray(labels == here) if here else _component_of_most(mask)
