"""Normal tissue of the six organs, painted wherever the lesion is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from histgen_lib.synth.canvas import LOW, UM, Canvas, Mask, low_box
from histgen_lib.synth.glands import Lining, gland
from histgen_lib.synth.scene import Scene, away_um, distance_um, surface_side
from histgen_lib.synth.shapes import Points, blob, capsule, inset, jittered, walk
from histgen_lib.synth.textures import Field, smooth_noise

DUCT = Lining(
    "breast_epithelium", 11, nucleus="round", pitch_um=6.5, depth_um=5.5, outer="spindle", rim="hyaline"
)
CRYPT = Lining(
    "colon_epithelium", 17, "cyto_clear", nucleus="columnar", pitch_um=6, depth_um=4.5, goblets=0.85
)
PIT = Lining("gastric_epithelium", 19, "mucin_drop", nucleus="columnar", pitch_um=6, depth_um=4.5)
FUNDIC = Lining("gastric_epithelium", 19, "cyto_oxyntic", nucleus="round", pitch_um=10, depth_um=7)
CHIEF = replace(FUNDIC, cyto="cyto_blue", depth_um=5)
ACINUS = Lining("prostate_epithelium", 17, "cyto", nucleus="round", pitch_um=6.5, depth_um=9, outer="basal")
BRONCHUS = Lining(
    "bronchial_epithelium", 22, "cyto", nucleus="columnar", pitch_um=5, depth_um=7, layers=2, layer_um=5
)


def paint_normal(canvas: Canvas, scene: Scene) -> None:
    """Paint the organ's stroma over all tissue, then its normal structures outside the lesion."""
    _ORGANS[scene.spec.diagnosis.organ](canvas, scene)


def spots(scene: Scene, mask: Mask, pitch_um: float, room_um: float, jitter: float = 0.25) -> Points:
    """Return jittered grid points (level-0 px) of `mask` at least `room_um` from its border."""
    points = jittered(low_box(mask), pitch_um * UM, scene.rng, jitter)
    where = (points / LOW).astype(int)
    h, w = mask.shape
    good = ((where >= 0) & (where < (w, h))).all(1)
    points, where = points[good], where[good]
    return np.asarray(points[distance_um(mask)[where[:, 1], where[:, 0]] >= room_um])


def _breast(canvas: Canvas, scene: Scene) -> None:
    canvas.fill_low(scene.tissue, "collagen", "collagen")
    rng, normal = scene.rng, scene.normal
    patches = smooth_noise(normal.shape, 13, rng) > 0.25
    far = away_um(scene.lesion) > 30
    fat = normal & patches & far
    canvas.fill_low(fat, "fat", "fat")
    canvas.stamp(canvas.points_on(("fat",), 55, keep=0.35), "endothelium")
    fibrous = normal & ~fat
    for centre in spots(scene, fibrous, 165, 34):
        if rng.random() < 0.4:
            outline = blob(
                centre,
                rng.uniform(26, 36) * UM,
                rng,
                wobble=0.12,
                aspect=rng.uniform(1, 1.8),
                angle=rng.uniform(0, 3),
            )
            gland(canvas, outline, DUCT)
        else:
            _lobule(canvas, centre, rng.uniform(42, 58))


def _lobule(canvas: Canvas, centre: Points, radius_um: float) -> None:
    rng = canvas.rng
    canvas.fill(blob(centre, radius_um * UM, rng, wobble=0.1), "lamina", "collagen")
    reach = radius_um * UM
    for point in jittered(
        (centre[0] - reach, centre[1] - reach, centre[0] + reach, centre[1] + reach), 33 * UM, rng, 0.12
    ):
        if np.hypot(*(point - centre)) < 0.74 * reach:
            gland(
                canvas,
                blob(point, rng.uniform(12, 15) * UM, rng, count=24),
                replace(DUCT, wall_um=8.5, depth_um=4.5, rim=""),
            )


def crypts(
    canvas: Canvas,
    scene: Scene,
    mask: Mask,
    lining: Lining,
    *,
    half_um: float = 27,
    gap_um: float = 13,
    length_um: float = 300,
    wobble: float = 0.05,
) -> None:
    """Fill `mask` with rows of parallel test tubes."""
    rng = scene.rng
    c, s = np.cos(scene.angle), np.sin(scene.angle)
    h, w = mask.shape
    reach = np.hypot(w, h) * LOW
    middle = np.array([w, h]) * LOW / 2
    room = distance_um(mask)
    pitch_v, pitch_u = (2 * half_um + gap_um) * UM, (length_um + 62) * UM
    steps = np.arange(0, length_um * UM, 8 * UM)
    for u0 in np.arange(-reach / 2, reach / 2, pitch_u):
        for v0 in np.arange(-reach / 2, reach / 2, pitch_v):
            v = v0 + rng.normal(0, 1.5) * UM
            us = u0 + steps + rng.normal(0, 8) * UM
            line = np.stack([us * c - v * s, us * s + v * c], 1) + middle
            where = (line / LOW).astype(int)
            good = np.asarray(((where >= 0) & (where < (w, h))).all(1))
            inside = np.zeros(len(good), np.bool_)
            inside[good] = room[where[good, 1], where[good, 0]] > half_um * 0.8
            run = _longest_run(inside)
            if run is not None and run[1] - run[0] >= 7:
                inner = 0.75 * half_um * UM * np.array([c, s])
                gland(
                    canvas,
                    capsule(line[run[0]] + inner, line[run[1] - 1] - inner, half_um * UM, rng, wobble=wobble),
                    lining,
                )


def _longest_run(good: np.ndarray) -> tuple[int, int] | None:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(int), [0]])))
    if not edges.size:
        return None
    starts, ends = edges[::2], edges[1::2]
    k = int((ends - starts).argmax())
    return int(starts[k]), int(ends[k])


def row_phase(scene: Scene, pitch_um: float) -> Field:
    """Return each low-resolution pixel's place within its row of crypts, in µm."""
    h, w = scene.tissue.shape
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    u = ((x - w / 2) * np.cos(scene.angle) + (y - h / 2) * np.sin(scene.angle)) * LOW / UM
    reach_um = np.hypot(w, h) * LOW / UM
    return np.asarray((u + reach_um / 2) % pitch_um, np.float32)


def _colon(canvas: Canvas, scene: Scene) -> None:
    canvas.fill_low(scene.tissue, "lamina", "lamina_propria")
    muscle = scene.normal & (np.abs(row_phase(scene, 362) - 332) < 12)
    canvas.fill_low(muscle, "muscle", "smooth_muscle")
    crypts(canvas, scene, scene.normal, CRYPT)


def _stomach(canvas: Canvas, scene: Scene) -> None:
    canvas.fill_low(scene.tissue, "lamina", "lamina_propria")
    rng = scene.rng
    gastritis = "gastritis" in scene.spec.diagnosis.text
    phase = row_phase(scene, 362)
    # Rows as `crypts` lays them: pits first, packed glands beneath, a band of muscle between rows.
    canvas.fill_low(scene.normal & (np.abs(phase - 346) < 10), "muscle", "smooth_muscle")
    crypts(canvas, scene, scene.normal & (phase < 140), PIT, half_um=26, gap_um=10 if not gastritis else 22)
    body = scene.normal & (phase > 148) & (phase < 334)
    for centre in spots(scene, body, 47 if not gastritis else 66, 14, 0.12):
        lining = FUNDIC if rng.random() < 0.6 else CHIEF
        gland(
            canvas,
            blob(
                centre,
                rng.uniform(20, 22.5) * UM,
                rng,
                aspect=rng.uniform(1, 1.25),
                angle=rng.uniform(0, 3),
                count=28,
            ),
            lining,
        )


def _prostate(canvas: Canvas, scene: Scene) -> None:
    canvas.fill_low(scene.tissue, "muscle", "smooth_muscle")
    rng = scene.rng
    for centre in spots(scene, scene.normal, 146, 54, 0.12):
        large_gland(canvas, centre, rng.uniform(50, 60), ACINUS)


def large_gland(canvas: Canvas, centre: Points, radius_um: float, lining: Lining) -> None:
    """Paint a prostatic gland whose epithelium folds into the lumen."""
    rng = canvas.rng
    aspect, angle = rng.uniform(1, 1.35), rng.uniform(0, 3)
    outline = blob(centre, radius_um * UM, rng, wobble=0.05, aspect=aspect, angle=angle, count=72)
    lumen = blob(
        centre,
        (radius_um - 0.8 * lining.wall_um) * UM,
        rng,
        wobble=0.04,
        aspect=aspect,
        angle=angle,
        lobes=int(rng.integers(6, 9)),
        depth=0.36,
        count=120,
    )
    gland(canvas, outline, lining, lumen)
    points, angles = walk(inset(lumen, -6.5 * UM), lining.pitch_um * 1.15 * UM, rng)
    canvas.stamp(points, lining.nucleus, angles)


def alveoli(canvas: Canvas, scene: Scene, mask: Mask) -> Points:
    """Paint alveolar lace over `mask`; returns the centres of the air spaces (level-0 px)."""
    rng = scene.rng
    canvas.fill_low(mask, "collagen", "alveoli")
    points = jittered((0, 0, canvas.width, canvas.height), 122 * UM, rng, 0.2)
    h, w = mask.shape
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    x, y = x + smooth_noise((h, w), 5, rng) * 1.6, y + smooth_noise((h, w), 5, rng) * 1.6
    near = np.full((2, h, w), 1e3, np.float32)
    for px, py in points / LOW:
        window = (
            slice(max(0, int(py) - 44), max(0, int(py) + 44)),
            slice(max(0, int(px) - 44), max(0, int(px) + 44)),
        )
        d = np.hypot(x[window] - px, y[window] - py)
        near[1][window] = np.minimum(near[1][window], np.maximum(near[0][window], d))
        near[0][window] = np.minimum(near[0][window], d)
    gap = near[1] - near[0] + 1.1 * smooth_noise((h, w), 6, rng)
    canvas.fill_low(np.where(mask, np.clip((gap - 2.7) * 0.5 + 0.5, 0, 1), 0), "lumen", "background")
    canvas.stamp(canvas.points_on(("alveoli",), 8.5, mask, keep=0.75), "round")
    canvas.stamp(canvas.points_on(("background",), 95, mask, keep=0.4), "macrophage")
    canvas.relabel(mask, ("background",), "alveoli")
    return points


def _lung(canvas: Canvas, scene: Scene) -> None:
    canvas.fill_low(scene.tissue, "collagen", "collagen")
    alveoli(canvas, scene, scene.normal)
    rng = scene.rng
    spot = scene.place(scene.normal, 75, 10)
    if spot is not None:
        canvas.fill(blob(spot, 75 * UM, rng), "collagen", "collagen")
        canvas.fill(blob(spot, 62 * UM, rng, wobble=0.04), "muscle", "smooth_muscle")
        gland(canvas, blob(spot, 47 * UM, rng, lobes=7, depth=0.12, count=90), BRONCHUS)


def _bladder(canvas: Canvas, scene: Scene) -> None:
    canvas.fill_low(scene.tissue, "lamina", "lamina_propria")
    side = surface_side(scene)
    band = scene.normal & (scene.depth_um < 46) & (side > -0.25) & (away_um(scene.ink) > 60)
    canvas.fill_low(band, "urothelium", "urothelium")
    canvas.stamp(canvas.points_on(("urothelium",), 8.2), "urothelial", None)
    deep = scene.normal & (side < -0.12) & (scene.depth_um > 20) & (scene.lesion_distance_um() > 130)
    bundles(canvas, scene, deep)
    for centre in spots(scene, scene.normal & (side > 0) & (scene.depth_um > 70), 150, 22)[:5]:
        small_vessel(canvas, centre)


def bundles(canvas: Canvas, scene: Scene, mask: Mask) -> None:
    """Paint bundles of smooth muscle."""
    rng = scene.rng
    turn = rng.uniform(0, np.pi)
    for centre in spots(scene, mask, 118, 24, 0.1):
        angle = turn + rng.normal(0, 0.25)
        half = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(26, 36) * UM
        outline = capsule(centre - half, centre + half, rng.uniform(33, 40) * UM, rng, wobble=0.04)
        canvas.fill(outline, "muscle", "smooth_muscle")
        lines = canvas_points(canvas, outline, 17)
        canvas.stamp(lines, "muscle", np.full(len(lines), 0.0))


def canvas_points(canvas: Canvas, outline: Points, pitch_um: float) -> Points:
    """Return jittered grid points well inside a convex-ish outline."""
    low, high = outline.min(0), outline.max(0)
    points = jittered((*low, *high), pitch_um * UM, canvas.rng)
    middle = outline.mean(0)
    bearing = np.arctan2(*(outline - middle).T[::-1])
    order = np.argsort(bearing)
    reach = np.hypot(*(outline - middle).T)[order]
    limit = np.interp(np.arctan2(*(points - middle).T[::-1]), bearing[order], reach, period=2 * np.pi)
    return np.asarray(points[np.hypot(*(points - middle).T) < limit - 6 * UM])


def small_vessel(canvas: Canvas, centre: Points) -> None:
    """Paint a capillary with a few red cells."""
    rng = canvas.rng
    outline = blob(
        centre,
        rng.uniform(9, 14) * UM,
        rng,
        wobble=0.12,
        aspect=rng.uniform(1, 2),
        angle=rng.uniform(0, 3),
        count=24,
    )
    canvas.fill(outline, "hyaline", "vessel")
    canvas.fill(inset_small(outline), "rbc", "vessel")
    points, angles = walk(outline, 16 * UM, rng)
    canvas.stamp(points, "endothelium", angles + np.pi / 2)


def inset_small(outline: Points) -> Points:
    """Return an outline shrunk towards its middle by a capillary's wall."""
    middle = outline.mean(0)
    return np.asarray(middle + (outline - middle) * 0.75)


_ORGANS: dict[str, Callable[[Canvas, Scene], None]] = {
    "Breast": _breast,
    "Colon": _colon,
    "Stomach": _stomach,
    "Prostate": _prostate,
    "Lung": _lung,
    "Urinary bladder": _bladder,
}
