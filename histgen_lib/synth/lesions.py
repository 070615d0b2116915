"""The main lesion of each diagnosis, painted into the scene's lesion mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from histgen_lib.synth.canvas import CLASS_ID, LOW, UM, Canvas, Mask
from histgen_lib.synth.glands import Cells, Lining, cribriform, gland, solid
from histgen_lib.synth.organs import CRYPT, DUCT, alveoli, bundles, crypts, large_gland, spots
from histgen_lib.synth.scene import Scene, away_um, disc_at, distance_um
from histgen_lib.synth.shapes import Points, blob, capsule
from histgen_lib.synth.textures import smooth_noise

ADENOMA = Lining(
    "adenoma_low",
    25,
    "tumour_blue",
    nucleus="pencil",
    pitch_um=4.6,
    depth_um=8,
    layers=2,
    layer_um=7,
    goblets=0.0,
)
PIN = Lining("pin", 25, "tumour", nucleus="pin", pitch_um=7, depth_um=7, layers=2, layer_um=7.5)
METAPLASIA = replace(CRYPT, cls="goblet_metaplasia", wall_um=17, goblets=1.0)

PITCH_UM = {"1": 9.5, "2": 11.5, "3": 15.0}
"""Spacing of tumour nuclei by grade; their sizes are in `sprites.KINDS`."""

SMALL_CELLS = Cells("lung_small_cell", "small", 9.2, "tumour_blue")


@dataclass(frozen=True)
class Focus:
    """A small decisive part of a lesion (its outline in level-0 px)."""

    kind: str
    field: str
    outline: Points


def paint_lesion(canvas: Canvas, scene: Scene) -> list[Focus]:
    """Paint the diagnosis's lesion, if it has one; returns its foci of their own outline."""
    name = scene.spec.diagnosis.lesion
    if not name or not scene.lesion.any():
        return []
    return _PAINTERS[name](canvas, scene) or []


def grade_cells(scene: Scene) -> tuple[str, Cells]:
    """Return the grade and the tumour's cells at that grade."""
    grade = scene.spec.fields["grade"]
    return grade, Cells(scene.spec.diagnosis.lesion, f"grade{grade}", PITCH_UM[grade])


def _lining(cells: Cells, wall_um: float, depth_um: float) -> Lining:
    return Lining(
        cells.cls, wall_um, "tumour", nucleus=cells.nucleus, pitch_um=cells.pitch_um * 0.8, depth_um=depth_um
    )


def _bed(canvas: Canvas, scene: Scene, texture: str = "desmoplasia") -> None:
    canvas.fill_low(scene.lesion, texture, "desmoplasia")


def _edge_spots(scene: Scene, pitch_um: float, room_um: float) -> Points:
    """Return places for tumour; where the lesion meets ink they come right up to it."""
    mask = scene.lesion
    if scene.spec.fields.get("margins") == "involved":
        mask = mask | (away_um(scene.ink) < 26) & (away_um(scene.lesion) < 40)
    return spots(scene, mask, pitch_um, room_um)


def _nests(canvas: Canvas, scene: Scene, cells: Cells, *, scale_um: float, share: float) -> None:
    """Paint irregular solid nests and cords: the upper part of a smooth noise."""
    noise = smooth_noise(scene.lesion.shape, scale_um / 4, scene.rng)
    if scene.spec.fields.get("margins") == "involved":
        noise = noise + (2.5 * np.exp(-away_um(scene.ink) / 50)).astype(np.float32)
    level = float(np.quantile(noise[scene.lesion], 1 - share))
    field = np.where(scene.lesion, np.clip((noise - level) * 1.5 + 0.5, 0, 1), 0)
    canvas.fill_low(field, cells.texture, cells.cls)
    points = canvas.points_on((cells.cls,), cells.pitch_um, scene.lesion, jitter=0.22)
    canvas.stamp(points, cells.nucleus)


def _tubules(
    canvas: Canvas,
    scene: Scene,
    radius_um: tuple[float, float],
    *,
    pitch_um: float,
    wobble: float,
    wall_um: float,
) -> None:
    """Paint single irregular glands."""
    rng, (_, cells) = scene.rng, grade_cells(scene)
    lining = _lining(cells, wall_um, wall_um * 0.45)
    for centre in _edge_spots(scene, pitch_um, 6):
        radius, aspect, angle = rng.uniform(*radius_um), rng.uniform(1, 1.7), rng.uniform(0, 3)
        outline = blob(centre, radius * UM, rng, wobble=wobble, aspect=aspect, angle=angle, count=36)
        gland(canvas, outline, lining)


def _cribriforms(
    canvas: Canvas, scene: Scene, radius_um: tuple[float, float], pitch_um: float, wobble: float = 0.12
) -> None:
    rng, (_, cells) = scene.rng, grade_cells(scene)
    for centre in _edge_spots(scene, pitch_um, 8):
        cribriform(canvas, centre, rng.uniform(*radius_um), cells, wobble=wobble)


def _breast_nst(canvas: Canvas, scene: Scene) -> None:
    _bed(canvas, scene)
    grade, cells = grade_cells(scene)
    if grade == "1":
        _tubules(canvas, scene, (17, 27), pitch_um=54, wobble=0.16, wall_um=12)
    elif grade == "2":
        _nests(canvas, scene, cells, scale_um=15, share=0.5)
    else:
        _nests(canvas, scene, cells, scale_um=34, share=0.68)


def _glandular(canvas: Canvas, scene: Scene) -> None:
    """Paint colonic, gastric or pulmonary adenocarcinoma."""
    _bed(canvas, scene)
    grade, cells = grade_cells(scene)
    if grade == "1":
        _tubules(canvas, scene, (30, 42), pitch_um=88, wobble=0.13, wall_um=17)
    elif grade == "2":
        _cribriforms(canvas, scene, (42, 58), 108)
    else:
        _nests(canvas, scene, cells, scale_um=36, share=0.66)
        rng = scene.rng
        for centre in spots(scene, scene.lesion, 190, 20):
            outline = blob(centre, rng.uniform(28, 36) * UM, rng, wobble=0.12)
            gland(canvas, outline, _lining(cells, 17, 8))


def _prostate_acinar(canvas: Canvas, scene: Scene) -> None:
    canvas.fill_low(scene.lesion, "muscle", "desmoplasia")
    grade, cells = grade_cells(scene)
    if grade == "1":
        _tubules(canvas, scene, (16, 21), pitch_um=48, wobble=0.05, wall_um=11)
    elif grade == "2":
        _cribriforms(canvas, scene, (34, 48), 88, 0.14)
    else:
        _nests(canvas, scene, cells, scale_um=22, share=0.66)


def _squamous(canvas: Canvas, scene: Scene) -> None:
    _bed(canvas, scene)
    grade, cells = grade_cells(scene)
    _nests(canvas, scene, replace(cells, texture="squamous"), scale_um=36, share=0.62)
    room = distance_um(class_low(canvas, "lung_squamous"))
    pearls = spots(scene, (room > 14) & scene.lesion, {"1": 95, "2": 120, "3": 150}[grade], 2)
    for centre in pearls:
        pearl(canvas, centre, scene.rng.uniform(20, 30))


def class_low(canvas: Canvas, cls: str) -> Mask:
    """Return where a class lies, at low resolution."""
    h, w = canvas.low_shape
    low = np.zeros((h, w), np.bool_)
    picked = canvas.c[LOW // 2 :: LOW, LOW // 2 :: LOW] == CLASS_ID[cls]
    low[: picked.shape[0], : picked.shape[1]] = picked
    return low


def pearl(canvas: Canvas, centre: Points, radius_um: float) -> None:
    """Paint concentric rings of keratin."""
    rng = canvas.rng
    for k, r in enumerate(np.arange(radius_um, 3, -3.4)):
        canvas.fill(
            blob(centre, r * UM, rng, wobble=0.05, count=28),
            "keratin" if k % 2 == 0 else "squamous",
            "keratin",
        )


def _small_cell(canvas: Canvas, scene: Scene) -> None:
    _bed(canvas, scene)
    _nests(canvas, scene, SMALL_CELLS, scale_um=50, share=0.84)


def _mucinous(canvas: Canvas, scene: Scene) -> None:
    _bed(canvas, scene)
    rng, (grade, cells) = scene.rng, grade_cells(scene)
    noise = smooth_noise(scene.lesion.shape, 9, rng)
    lakes = np.where(scene.lesion, np.clip((np.abs(noise) - 0.17) * 4 + 0.5, 0, 1), 0)
    canvas.fill_low(lakes, "mucin", "mucin")
    lake = (lakes > 0.5) & scene.lesion
    for centre in spots(scene, lake, 70 if grade != "3" else 76, 12):
        radius = rng.uniform(24, 33)
        if grade == "1":
            gland(canvas, blob(centre, radius * UM, rng, wobble=0.1), _lining(cells, 14, 6))
        elif grade == "2":
            cribriform(canvas, centre, radius + 5, cells)
        else:
            solid(canvas, blob(centre, radius * UM, rng, wobble=0.12, aspect=1.3), cells)


def _poorly_cohesive(canvas: Canvas, scene: Scene) -> None:
    canvas.fill_low(scene.lesion, "desmoplasia", "gastric_poorly_cohesive")
    points = canvas.points_on(("gastric_poorly_cohesive",), 18.5, scene.lesion, jitter=0.24, keep=0.86)
    canvas.stamp(points, "signet")


def _urothelial(canvas: Canvas, scene: Scene) -> None:
    _bed(canvas, scene)
    rng, (grade, cells) = scene.rng, grade_cells(scene)
    if "with invasion" not in scene.spec.diagnosis.text:
        _nests(canvas, scene, cells, scale_um={"1": 30, "2": 24, "3": 20}[grade], share=0.56)
        return
    bundles(canvas, scene, scene.tissue & (away_um(scene.lesion) < 110) & (scene.depth_um > 20))
    for centre in _edge_spots(scene, 84, 8):
        radius, aspect, angle = rng.uniform(24, 33), rng.uniform(1, 2), rng.uniform(0, 3)
        solid(canvas, blob(centre, radius * UM, rng, wobble=0.15, aspect=aspect, angle=angle), cells)


def _fibroadenoma(canvas: Canvas, scene: Scene) -> None:
    canvas.fill_low(scene.lesion, "myxoid", "fibroadenoma")
    canvas.stamp(canvas.points_on(("fibroadenoma",), 15, scene.lesion), "spindle")
    rng = scene.rng
    lining = replace(DUCT, cls="fibroadenoma", wall_um=10, rim="")
    for centre in spots(scene, scene.lesion, 105, 26):
        angle = rng.uniform(0, np.pi)
        half = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(35, 60) * UM
        gland(canvas, capsule(centre - half, centre + half, rng.uniform(11.5, 14) * UM, rng), lining)


def _dcis(canvas: Canvas, scene: Scene) -> None:
    canvas.fill_low(scene.lesion, "collagen", "collagen")
    rng, cells = scene.rng, Cells("dcis", "grade2", 11)
    for centre in spots(scene, scene.lesion, 168, 34, 0.12):
        radius = rng.uniform(56, 74)
        canvas.fill(blob(centre, (radius + 4) * UM, rng, wobble=0.02), "hyaline", "collagen")
        if rng.random() < 0.5:
            cribriform(canvas, centre, radius, cells, wobble=0.03)
        else:
            solid(canvas, blob(centre, radius * UM, rng, wobble=0.03), cells)


def _adenoma_low(canvas: Canvas, scene: Scene) -> None:
    canvas.fill_low(scene.lesion, "lamina", "lamina_propria")
    crypts(canvas, scene, scene.lesion, ADENOMA, half_um=37, gap_um=9, wobble=0.08)


def _adenoma_high(canvas: Canvas, scene: Scene) -> list[Focus]:
    _adenoma_low(canvas, scene)
    rng = scene.rng
    x, y, radius = scene.best_place(scene.lesion, rng.uniform(105, 135))
    focus = blob((x, y), radius * UM, rng, wobble=0.04)
    canvas.fill(focus, "lamina", "lamina_propria")
    area = disc_at(scene.tissue.shape, (x, y), radius)
    cells = Cells("adenoma_high", "atypical", 12.5)
    for centre in spots(scene, area, 84, 22, 0.08):
        cribriform(canvas, centre, rng.uniform(37, 43), cells, wobble=0.08)
    return [Focus("adenoma_high", "diagnosis", focus)]


def _metaplasia(canvas: Canvas, scene: Scene) -> None:
    canvas.fill_low(scene.lesion, "lamina", "lamina_propria")
    rng = scene.rng
    for centre in spots(scene, scene.lesion, 74, 20, 0.06):
        outline = blob(
            centre, rng.uniform(28, 32) * UM, rng, aspect=rng.uniform(1, 1.3), angle=rng.uniform(0, 3)
        )
        gland(canvas, outline, METAPLASIA)


def _pin(canvas: Canvas, scene: Scene) -> None:
    canvas.fill_low(scene.lesion, "muscle", "smooth_muscle")
    for centre in spots(scene, scene.lesion, 150, 46, 0.12):
        large_gland(canvas, centre, scene.rng.uniform(56, 66), PIN)


def _op(canvas: Canvas, scene: Scene) -> None:
    rng = scene.rng
    points = alveoli(canvas, scene, scene.lesion)
    where = np.clip((points / LOW).astype(int), 0, np.array(scene.lesion.shape)[::-1] - 1)
    for centre in points[scene.lesion[where[:, 1], where[:, 0]]]:
        if rng.random() < 0.85:
            outline = blob(
                centre,
                rng.uniform(33, 42) * UM,
                rng,
                wobble=0.12,
                aspect=rng.uniform(1, 1.5),
                angle=rng.uniform(0, 3),
            )
            canvas.fill(outline, "plug", "op_plug")
    canvas.stamp(canvas.points_on(("op_plug",), 17, scene.lesion), "spindle")


def _papillary(canvas: Canvas, scene: Scene) -> None:
    """Fronds in empty space: the lesion is carved out and filled with cut fingers of urothelium."""
    rng = scene.rng
    canvas.fill_low(scene.lesion, "lumen", "papillary")
    up = scene.angle + (np.pi if scene.spec.index % 2 else 0)
    for centre in spots(scene, scene.lesion, 132, 30, 0.1):
        angle = up + rng.normal(0, 0.5)
        half = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(4, 34) * UM
        frond(canvas, capsule(centre - half, centre + half, rng.uniform(48, 55) * UM, rng, wobble=0.05))


def frond(canvas: Canvas, outline: Points) -> None:
    """Paint one frond: six layers of urothelium over a core of stroma with a capillary."""
    lining = Lining(
        "papillary", 36, "urothelium", "lamina", "urothelial", pitch_um=7.4, depth_um=5, layers=4, layer_um=8
    )
    gland(canvas, outline, lining)
    middle = outline.mean(0)
    canvas.fill(blob(middle, 7 * UM, canvas.rng, wobble=0.1, count=20), "rbc", "papillary")


_PAINTERS: dict[str, Callable[[Canvas, Scene], list[Focus] | None]] = {
    "breast_nst": _breast_nst,
    "breast_mucinous": _mucinous,
    "colon_adenocarcinoma": _glandular,
    "colon_mucinous": _mucinous,
    "gastric_intestinal": _glandular,
    "gastric_poorly_cohesive": _poorly_cohesive,
    "prostate_acinar": _prostate_acinar,
    "lung_adenocarcinoma": _glandular,
    "lung_squamous": _squamous,
    "lung_small_cell": _small_cell,
    "urothelial_carcinoma": _urothelial,
    "fibroadenoma": _fibroadenoma,
    "dcis": _dcis,
    "adenoma_low": _adenoma_low,
    "adenoma_high": _adenoma_high,
    "goblet_metaplasia": _metaplasia,
    "pin": _pin,
    "op_plug": _op,
    "papillary": _papillary,
}
