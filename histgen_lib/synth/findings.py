"""Findings that decide a report's fields, such as necrosis and mitoses, and decoys that must not."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from histgen_lib.synth.canvas import CLASS_ID, LOW, UM, Canvas, Mask
from histgen_lib.synth.glands import solid
from histgen_lib.synth.lesions import SMALL_CELLS, Focus, class_low, grade_cells
from histgen_lib.synth.scene import EDGE_UM, Scene, disc_at, distance_um
from histgen_lib.synth.shapes import Points, blob, walk
from histgen_lib.synth.spec import MITOSES
from histgen_lib.synth.textures import smooth_noise

STROMA = ("collagen", "lamina_propria", "desmoplasia", "smooth_muscle", "fibroadenoma", "alveoli")
HOTSPOT_UM = 150.0


def necrosis(canvas: Canvas, scene: Scene) -> list[Focus]:
    """Paint one focus of necrosis, 150 to 300 µm across, into the tumour."""
    if scene.spec.fields.get("necrosis") != "present":
        return []
    rng = scene.rng
    deep = scene.lesion & (scene.depth_um > EDGE_UM)
    x, y, radius = scene.best_place(deep, rng.uniform(78, 135))
    outline = blob((x, y), max(radius, 75) * UM, rng, wobble=0.09, count=60)
    canvas.fill(outline, "necrosis", "necrosis")
    area = disc_at(scene.tissue.shape, (x, y), 170)
    canvas.stamp(canvas.points_on(("necrosis",), 8, area, jitter=0.5, keep=0.6), "debris")
    return [Focus("necrosis", "necrosis", outline)]


def mitoses(canvas: Canvas, scene: Scene) -> tuple[list[Focus], Points]:
    """Stamp the hotspot's mitoses on tumour cells; return the hotspot and the centres."""
    if not scene.spec.diagnosis.invasive:
        return [], np.zeros((0, 2))
    rng, cls = scene.rng, scene.spec.diagnosis.lesion
    low, high = MITOSES[scene.spec.fields["mitotic_score"]]
    count = int(rng.integers(low, high + 1))
    centre = _hotspot(canvas, scene, cls)
    area = disc_at(scene.tissue.shape, centre, HOTSPOT_UM - 12) & (scene.depth_um > EDGE_UM - 8)
    points = _mitotic_cells(canvas, cls, area, centre, count)
    if len(points) < count:
        # Sparse tumour: add a few nests in the hotspot's stroma or mucin.
        _, cells = grade_cells(scene)
        for spot in canvas.points_on(("mucin", "desmoplasia"), 62, area, jitter=0.1):
            solid(canvas, blob(spot, 27 * UM, rng, wobble=0.1), cells)
        points = _mitotic_cells(canvas, cls, area, centre, count)
    if len(points) < count:
        solid(canvas, blob(centre, 100 * UM, rng, wobble=0.1), grade_cells(scene)[1])
        points = _mitotic_cells(canvas, cls, area | disc_at(area.shape, centre, 100), centre, count)
    chosen = points[rng.permutation(len(points))[:count]]
    canvas.stamp(chosen, "mitosis")
    focus = Focus("hotspot", "mitotic_score", blob(centre, HOTSPOT_UM * UM, rng, wobble=0, count=40))
    return [focus], chosen


def _mitotic_cells(canvas: Canvas, cls: str, area: Mask, centre: tuple[float, float], count: int) -> Points:
    """Return at least `count` cells for mitoses, as far apart as the tumour allows; fewer if it is small."""
    points = np.zeros((0, 2))
    for pitch in (27, 23, 20, 17, 14, 11, 9, 7):
        points = _apart(canvas.points_on((cls,), pitch, area, jitter=0.25, min_eosin=30), centre)
        if len(points) >= count * 1.3 or (len(points) >= count and pitch < 14):
            break
    return points


def _apart(points: Points, centre: tuple[float, float]) -> Points:
    near = points[np.hypot(*(points - centre).T) < (HOTSPOT_UM - 8) * UM]
    kept: list[np.ndarray] = []
    for point in near:
        if all(np.hypot(*(point - other)) > 14 * UM for other in kept):
            kept.append(point)
    return np.array(kept).reshape(-1, 2)


def _hotspot(canvas: Canvas, scene: Scene, cls: str) -> tuple[float, float]:
    """Choose among the discs richest in tumour cells."""
    picked = (canvas.c[LOW // 2 :: LOW, LOW // 2 :: LOW] == CLASS_ID[cls]).astype(np.float32)
    picked = picked * scene.lesion[: picked.shape[0], : picked.shape[1]]
    picked *= scene.depth_um[: picked.shape[0], : picked.shape[1]] > EDGE_UM
    side = int(2 * (HOTSPOT_UM - 12) * UM / LOW) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)).astype(np.float32)
    dense = cv2.filter2D(picked, -1, kernel, borderType=cv2.BORDER_CONSTANT)
    rows, columns = np.nonzero(dense >= 0.9 * dense.max())
    k = int(scene.rng.integers(rows.size))
    return float((columns[k] + 0.5) * LOW), float((rows[k] + 0.5) * LOW)


def vessels(canvas: Canvas, scene: Scene) -> list[Focus]:
    """Paint vessels outside the lesion: red cells in most, a tumour embolus where there is invasion."""
    rng, spec = scene.rng, scene.spec
    allowed = scene.normal & (scene.depth_um > EDGE_UM - 12) & (scene.lesion_distance_um() > 15)
    emboli = int(rng.integers(1, 4)) if spec.fields.get("lymphovascular_invasion") == "present" else 0
    foci = []
    for k in range(emboli):
        radius = rng.uniform(52, 78)
        spot = scene.place(allowed, radius) or (scene.best_place(allowed, radius)[:2] if k == 0 else None)
        if spot is not None:
            foci.append(_vessel(canvas, spot, radius, scene, embolus=True))
    for _ in range(int(rng.integers(1, 4))):
        radius = rng.uniform(52, 78)
        spot = scene.place(allowed, radius)
        if spot is not None:
            _vessel(canvas, spot, radius, scene, embolus=False)
    return foci


def _vessel(
    canvas: Canvas, spot: tuple[float, float], radius_um: float, scene: Scene, *, embolus: bool
) -> Focus:
    rng = canvas.rng
    aspect, angle, seed = rng.uniform(1, 1.35), rng.uniform(0, 3), int(rng.integers(2**31))

    def ring(scale: float) -> Points:
        same = np.random.default_rng(seed)
        return blob(spot, radius_um * scale * UM, same, wobble=0.06, aspect=aspect, angle=angle)

    canvas.fill(ring(1.0), "hyaline", "vessel")
    canvas.fill(ring(0.86), "lumen", "vessel")
    if embolus:
        small = scene.spec.diagnosis.lesion == SMALL_CELLS.cls
        cells = SMALL_CELLS if small else grade_cells(scene)[1]
        shift = np.array(spot) + rng.uniform(-0.08, 0.08, 2) * radius_um * UM
        nest = blob(shift, radius_um * 0.6 * UM, rng, wobble=0.09, aspect=rng.uniform(1, 1.25))
        solid(canvas, nest, replace(cells, cls="vessel_embolus"))
    else:
        canvas.fill(blob(spot, radius_um * 0.78 * UM, rng, wobble=0.1), "rbc", "vessel")
    points, angles = walk(ring(0.89), 13 * UM, rng)
    canvas.stamp(points, "endothelium", angles + np.pi / 2)
    return Focus("vessel_embolus", "lymphovascular_invasion", ring(1.03))


def stroma_cells(canvas: Canvas, scene: Scene) -> None:
    """Scatter the fibroblasts, muscle nuclei and few lymphocytes of normal stroma."""
    canvas.stamp(canvas.points_on(("collagen",), 27, keep=0.7), "spindle")
    canvas.stamp(canvas.points_on(("desmoplasia",), 17, keep=0.8), "spindle")
    muscle = canvas.points_on(("smooth_muscle",), 25, keep=0.8)
    canvas.stamp(muscle, "muscle", scene.rng.normal(0, 0.13, len(muscle)))
    canvas.stamp(canvas.points_on(("lamina_propria",), 21, keep=0.75), "spindle")
    canvas.stamp(canvas.points_on(("lamina_propria", "collagen"), 48, keep=0.3), "lymphocyte")


def decoys(canvas: Canvas, scene: Scene) -> None:
    """Paint decoys away from the lesion: hyaline scars, blood lakes and lymphoid aggregates."""
    rng = scene.rng
    allowed = scene.normal & (scene.depth_um > 25) & (scene.lesion_distance_um() > 40)
    for texture, cls, chance in (("hyaline", "hyaline", 0.4), ("rbc", "blood", 0.35)):
        if rng.random() < chance:
            radius = rng.uniform(45, 85)
            spot = scene.place(allowed, radius)
            if spot is not None:
                canvas.fill(blob(spot, radius * UM, rng, wobble=0.15), texture, cls)
    if rng.random() < 0.4:
        spot = scene.place(allowed & (scene.lesion_distance_um() > 160), 62)
        if spot is not None:
            canvas.fill(
                blob(spot, rng.uniform(45, 60) * UM, rng, wobble=0.08), "lamina", "lymphoid_aggregate"
            )
            area = disc_at(scene.tissue.shape, spot, 75)
            canvas.stamp(canvas.points_on(("lymphoid_aggregate",), 7.2, area), "lymphocyte")


def lymphocytes(canvas: Canvas, scene: Scene) -> list[Mask]:
    """Paint tumour-infiltrating lymphocytes as reported; return the areas that show them."""
    value = scene.spec.fields.get("tumor_infiltrating_lymphocytes")
    if value == "peritumoral":
        distance = scene.lesion_distance_um()
        inner = distance_um(scene.lesion)
        wave = 18 * smooth_noise(scene.tissue.shape, 10, scene.rng)
        band = scene.tissue & (distance < 72 + wave) & (inner < 14) & (scene.depth_um > 12)
        airy = class_low(canvas, "fat") | class_low(canvas, "alveoli")
        canvas.fill_low(band & ~scene.lesion & airy, "lamina", "lamina_propria")
        canvas.stamp(canvas.points_on((*STROMA, "fat"), 7.6, band, keep=0.92, min_eosin=20), "lymphocyte")
        canvas.relabel(band, (*STROMA, "fat"), "lymphocytes_stroma")
        return [band]
    if value == "intratumoral":
        cls = scene.spec.diagnosis.lesion
        points = canvas.points_on((cls,), 17, scene.lesion, jitter=0.3, keep=0.85, min_eosin=30)
        canvas.stamp(points, "til")
        return [scene.lesion]
    return []


def inflammation(canvas: Canvas, scene: Scene) -> tuple[list[Mask], list[Focus]]:
    """Paint chronic inflammation over most stroma, and small abscesses where it is active."""
    value = scene.spec.fields.get("inflammation", "none")
    if value == "none":
        return [], []
    noise = smooth_noise(scene.tissue.shape, 14, scene.rng)
    area = scene.tissue & (noise > -1.25) & (scene.depth_um > 8)
    canvas.stamp(canvas.points_on(STROMA, 8.8, area, jitter=0.4, keep=0.88, min_eosin=14), "lymphocyte")
    canvas.relabel(area, ("collagen", "lamina_propria", "smooth_muscle"), "lymphocytes_stroma")
    foci = []
    if value == "chronic active":
        for _ in range(int(scene.rng.integers(1, 4))):
            foci.append(_abscess(canvas, scene))
    return [area], foci


def _abscess(canvas: Canvas, scene: Scene) -> Focus:
    rng = scene.rng
    x, y, radius = scene.best_place(scene.tissue & (scene.depth_um > EDGE_UM), rng.uniform(40, 58))
    outline = blob((x, y), max(radius, 36) * UM, rng, wobble=0.1)
    canvas.fill(outline, "pus", "abscess")
    area = disc_at(scene.tissue.shape, (x, y), 75)
    canvas.stamp(canvas.points_on(("abscess",), 6.8, area, jitter=0.35), "neutrophil")
    return Focus("abscess", "inflammation", outline)


def granulomas(canvas: Canvas, scene: Scene) -> list[Focus]:
    """Paint one or two epithelioid granulomas with a giant cell and a lymphocytic cuff."""
    if scene.spec.fields.get("granulomas") != "present":
        return []
    rng, foci = scene.rng, []
    for _ in range(int(rng.integers(1, 3))):
        radius = rng.uniform(84, 122)
        deep = scene.tissue & (scene.depth_um > EDGE_UM)
        x, y, radius = _beside_lesion(scene, deep, radius) or scene.best_place(deep, radius)
        radius = max(radius, 75)
        outline = blob((x, y), radius * UM, rng, wobble=0.05)
        canvas.fill(outline, "granuloma", "granuloma")
        _whorl(canvas, (x, y), radius)
        foci.append(Focus("granuloma", "granulomas", outline))
    return foci


def _beside_lesion(scene: Scene, deep: Mask, radius_um: float) -> tuple[float, float, float] | None:
    """Choose a place in normal tissue, if one is large enough, so that a small lesion stays visible."""
    spot = scene.place(deep & ~scene.lesion, radius_um)
    return None if spot is None else (*spot, radius_um)


def _whorl(canvas: Canvas, spot: tuple[float, float], radius_um: float) -> None:
    rng = canvas.rng
    for r in np.arange(14, radius_um - 10, 12.5):
        points, angles = walk(blob(spot, r * UM, rng, wobble=0.05), 17 * UM, rng)
        canvas.stamp(
            points + rng.normal(0, 2 * UM, points.shape),
            "epithelioid",
            angles + np.pi / 2 + rng.normal(0, 0.4, len(points)),
        )
    for r in (radius_um - 6, radius_um):
        points, _ = walk(blob(spot, r * UM, rng, wobble=0.04), 8 * UM, rng)
        canvas.stamp(points + rng.normal(0, 1.5 * UM, points.shape), "lymphocyte")
    middle = np.array(spot) + rng.uniform(-0.3, 0.3, 2) * radius_um * UM
    canvas.fill(blob(middle, 24 * UM, rng, wobble=0.08), "giant", "granuloma")
    ring, angles = walk(blob(middle, 18 * UM, rng, wobble=0.04), 7.5 * UM, rng)
    canvas.stamp(ring[: int(len(ring) * 0.75)], "round", None)
