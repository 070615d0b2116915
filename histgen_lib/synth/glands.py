"""Glands, crypts and other epithelium, painted from outlines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histgen_lib.synth.canvas import UM, Canvas, Mask
from histgen_lib.synth.shapes import Points, blob, inset, jittered, walk


@dataclass(frozen=True)
class Lining:
    """How a gland's wall looks. Lengths are in µm; `goblets` is the share of cells with a drop of mucin."""

    cls: str
    wall_um: float = 13
    cyto: str = "cyto"
    lumen: str = "lumen"
    nucleus: str = "round"
    pitch_um: float = 8.0
    depth_um: float = 5.0
    layers: int = 1
    layer_um: float = 7.0
    across: bool = True
    goblets: float = 0.0
    rim: str = ""
    outer: str = ""


def gland(canvas: Canvas, outline: Points, lining: Lining, lumen: Points | None = None) -> None:
    """Paint one gland: wall, lumen (by default the outline inset by the wall) and nuclei."""
    if lining.rim:
        canvas.fill(inset(outline, -3.0 * UM), lining.rim, None)
    area = canvas.fill(outline, lining.cyto, lining.cls)
    if area is None:
        return
    canvas.fill(inset(outline, lining.wall_um * UM) if lumen is None else lumen, lining.lumen, lining.cls)
    if lining.goblets:
        ring = inset(outline, 0.62 * lining.wall_um * UM)
        spots, angles = walk(ring, 11.5 * UM, canvas.rng)
        chosen = canvas.rng.random(len(spots)) < lining.goblets
        canvas.stamp(spots[chosen], "goblet", angles[chosen])
    if lining.outer:
        spots, angles = walk(inset(outline, 2.5 * UM), 10 * UM, canvas.rng)
        canvas.stamp(spots, lining.outer, angles + np.pi / 2)
    for layer in range(lining.layers):
        ring = inset(outline, (lining.depth_um + layer * lining.layer_um) * UM)
        spots, angles = walk(ring, lining.pitch_um * UM, canvas.rng)
        shake = canvas.rng.normal(0, 0.9 * UM, spots.shape)
        canvas.stamp(spots + shake, lining.nucleus, angles if lining.across else angles + np.pi / 2)


@dataclass(frozen=True)
class Cells:
    """A population of cells that fills a nest: its class, nucleus, spacing and cytoplasm."""

    cls: str
    nucleus: str
    pitch_um: float
    texture: str = "tumour"


def solid(canvas: Canvas, outline: Points, cells: Cells) -> None:
    """Paint a filled nest with nuclei throughout."""
    area = canvas.fill(outline, cells.texture, cells.cls)
    if area is not None:
        _scatter(canvas, area, cells)


def cribriform(
    canvas: Canvas, centre: Points, radius_um: float, cells: Cells, *, wobble: float = 0.1
) -> None:
    """Paint a gland filled by cells with several round, punched-out lumens."""
    rng = canvas.rng
    outline = blob(
        centre, radius_um * UM, rng, wobble=wobble, aspect=rng.uniform(1, 1.4), angle=rng.uniform(0, 3.1)
    )
    holes = _holes(centre, radius_um, rng)
    area = canvas.fill(outline, cells.texture, cells.cls)
    if area is None:
        return
    rows, columns, mask = area
    inside = mask.copy()
    for x, y, r in holes:
        canvas.fill(blob((x, y), r * UM, rng, wobble=0.07, count=20), "lumen", cells.cls)
        yy, xx = np.ogrid[rows, columns]
        inside &= (xx - x) ** 2 + (yy - y) ** 2 > ((r + cells.pitch_um * 0.33) * UM) ** 2
    _scatter(canvas, (rows, columns, inside), cells)


def _scatter(canvas: Canvas, area: tuple[slice, slice, Mask], cells: Cells) -> None:
    """Stamp nuclei on a jittered grid over a mask."""
    rows, columns, mask = area
    points = jittered((0, 0, mask.shape[1], mask.shape[0]), cells.pitch_um * UM, canvas.rng)
    points = points[((points >= 0) & (points < mask.shape[::-1])).all(1)]
    where = points.astype(int)
    canvas.stamp(points[mask[where[:, 1], where[:, 0]]] + (columns.start, rows.start), cells.nucleus)


def _holes(centre: Points, radius_um: float, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    count = max(3, int(radius_um / 13))
    turn = rng.uniform(0, 6.3)
    holes = []
    for k in range(count):
        reach = radius_um * (0.55 + rng.uniform(-0.08, 0.08)) * UM
        angle = turn + 2 * np.pi * k / count
        holes.append(
            (centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle), rng.uniform(7, 11.5))
        )
    if radius_um > 45:
        holes.append((float(centre[0]), float(centre[1]), rng.uniform(8, 12)))
    return holes
