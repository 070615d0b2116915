"""From a specification to pixels and truth: the order of painting, and from stain to colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from histgen_lib.synth import artefacts, findings
from histgen_lib.synth.canvas import CLASSES, LOW, Canvas, Mask, enlarge
from histgen_lib.synth.lesions import Focus, paint_lesion
from histgen_lib.synth.organs import paint_normal
from histgen_lib.synth.scene import Scene, away_um, compose
from histgen_lib.synth.shapes import Points
from histgen_lib.synth.spec import MPP, SlideSpec
from histgen_lib.synth.textures import Plane

HAEMATOXYLIN = np.array([0.72, 0.80, 0.42])
EOSIN = np.array([0.10, 0.62, 0.34])
"""Optical density (R, G, B) of a stain plane at 255, for an average slide."""

RED_CELLS = 236
"""Eosin values from here on are red cells, which are more orange than any eosin."""

BLOCK_PX = 256
TRUTH_PX = 64
"""Level-0 pixels per pixel of the truth map."""


@dataclass(frozen=True)
class Stain:
    """One slide's colours: `table` maps haematoxylin * 256 + eosin to RGB; `noise` is int8 [256, 256, 3]."""

    table: NDArray[np.uint8]
    noise: NDArray[np.int16]

    @property
    def background(self) -> NDArray[np.uint8]:
        """RGB of bare glass."""
        return np.asarray(self.table[0])


def draw_stain(rng: np.random.Generator, artefacts: tuple[str, ...]) -> Stain:
    """Draw a slide's stain at random, slightly off the average."""
    haematoxylin = HAEMATOXYLIN * rng.uniform(0.88, 1.2) * (1 + 0.06 * rng.standard_normal(3))
    eosin = EOSIN * rng.uniform(0.85, 1.22) * (1 + 0.08 * rng.standard_normal(3))
    gamma = rng.uniform(0.92, 1.1)
    glass = np.array([244.0, 243, 244]) + rng.uniform(-4, 4) + rng.uniform(-2, 2, 3)
    if "grey background" in artefacts:
        glass = glass - rng.uniform(14, 26)
    if "yellow background" in artefacts:
        glass = glass - np.array([4, 8, 26]) * rng.uniform(0.7, 1.1)
    h = np.arange(256)[:, None, None] / 255
    e = np.arange(256)[None, :, None] / 255
    density = (h**gamma) * haematoxylin * 1.25 + (e**gamma) * eosin
    density[:, RED_CELLS:] += np.array([0.02, -0.05, 0.20])
    table = np.clip(glass * 10.0**-density, 0, 255).astype(np.uint8).reshape(-1, 3)
    noise = np.round(rng.normal(0, rng.uniform(0.8, 2.0), (256, 256, 3))).astype(np.int16)
    return Stain(table, noise)


def colour(h: Plane, e: Plane, stain: Stain) -> NDArray[np.uint8]:
    """Return RGB [h, w, 3] of two stain planes, without noise."""
    index = h.astype(np.uint16)
    index <<= 8
    index |= e
    return np.asarray(np.take(stain.table, index, axis=0))


@dataclass(frozen=True)
class RenderedSlide:
    """A slide in memory.

    `image` is uint8 RGB [h, w, 3], with `spec.size_px` padded to whole 256 px blocks; `blank` marks the
    blocks of bare glass (bool [h/256, w/256]); `truth` is the truth JSON; `class_map` is uint8, one pixel
    per 64 level-0 px in each direction, with a class's number being its position in `canvas.CLASSES`.
    """

    spec: SlideSpec
    image: NDArray[np.uint8]
    blank: Mask
    truth: dict[str, Any]
    class_map: NDArray[np.uint8]


def render(spec: SlideSpec) -> RenderedSlide:
    """Paint the slide; a pure function of `spec`."""
    scene = compose(spec, np.random.default_rng([spec.seed, spec.index, 1]))
    canvas = Canvas(spec.size_px, np.random.default_rng([spec.seed, spec.index, 2]))
    foci, areas, mitoses = _paint(canvas, scene)
    stain = draw_stain(np.random.default_rng([spec.seed, spec.index, 3]), spec.artefacts)
    image, blank = _develop(canvas, scene, stain, foci, areas)
    return RenderedSlide(
        spec=spec,
        image=image,
        blank=blank,
        truth=_truth(scene, foci, areas, mitoses),
        class_map=np.ascontiguousarray(canvas.c[TRUTH_PX // 2 :: TRUTH_PX, TRUTH_PX // 2 :: TRUTH_PX]),
    )


def _paint(canvas: Canvas, scene: Scene) -> tuple[list[Focus], list[tuple[str, str, Mask]], Points]:
    paint_normal(canvas, scene)
    foci = paint_lesion(canvas, scene)
    for focus in foci:
        _reserve(scene, focus)
    if scene.spec.diagnosis.lesion == "goblet_metaplasia":
        scene.taken |= scene.lesion
    foci += findings.necrosis(canvas, scene)
    foci += findings.granulomas(canvas, scene)
    foci += findings.vessels(canvas, scene)
    findings.decoys(canvas, scene)
    findings.stroma_cells(canvas, scene)
    areas: list[tuple[str, str, Mask]] = []
    bands = findings.lymphocytes(canvas, scene)
    areas += [("lymphocytes", "tumor_infiltrating_lymphocytes", band) for band in bands]
    inflamed, abscesses = findings.inflammation(canvas, scene)
    areas += [("inflammation", "inflammation", area) for area in inflamed]
    hotspot, mitoses = findings.mitoses(canvas, scene)
    foci += abscesses + hotspot
    if scene.spec.fields.get("tumor_infiltrating_lymphocytes") == "intratumoral":
        canvas.relabel(scene.lesion, (scene.spec.diagnosis.lesion,), "lymphocytes_in_tumour")
    return foci, areas, mitoses


def _reserve(scene: Scene, focus: Focus) -> None:
    low = scene.taken.view(np.uint8)
    cv2.fillPoly(low, [np.round(focus.outline / LOW).astype(np.int32)], 1)


def _develop(
    canvas: Canvas, scene: Scene, stain: Stain, foci: list[Focus], areas: list[tuple[str, str, Mask]]
) -> tuple[NDArray[np.uint8], Mask]:
    """Turn the canvas into colours, block by block, skipping bare glass."""
    _trim_to_tissue(canvas, scene)
    artefacts.spill_blood(canvas, scene)
    rows, columns = -(-canvas.height // BLOCK_PX), -(-canvas.width // BLOCK_PX)
    image = np.empty((rows * BLOCK_PX, columns * BLOCK_PX, 3), np.uint8)
    glass = np.clip(stain.background + stain.noise, 0, 255).astype(np.uint8)
    image.reshape(rows, BLOCK_PX, columns, BLOCK_PX, 3)[:] = glass[None, :, None]
    up, down = np.clip(stain.noise, 0, 255).astype(np.uint8), np.clip(-stain.noise, 0, 255).astype(np.uint8)
    for y in range(0, canvas.height, BLOCK_PX):
        for x in range(0, canvas.width, BLOCK_PX):
            e, h = canvas.e[y : y + BLOCK_PX, x : x + BLOCK_PX], canvas.h[y : y + BLOCK_PX, x : x + BLOCK_PX]
            if e.any() or h.any():
                block = colour(h, e, stain)
                height, width = h.shape
                block = cv2.subtract(cv2.add(block, up[:height, :width]), down[:height, :width])
                image[y : y + height, x : x + width] = block
    artefacts.apply_ink(canvas, image, scene)
    artefacts.apply(canvas, image, scene, _protected(scene, foci, areas))
    blank = np.array(
        [
            [
                np.array_equal(image[y : y + BLOCK_PX, x : x + BLOCK_PX], glass)
                for x in range(0, image.shape[1], BLOCK_PX)
            ]
            for y in range(0, image.shape[0], BLOCK_PX)
        ]
    )
    return image, blank


def _trim_to_tissue(canvas: Canvas, scene: Scene) -> None:
    """Erase what was painted beyond the tissue's edge."""
    inside = enlarge(scene.tissue, (scene.tissue.shape[0] * LOW, scene.tissue.shape[1] * LOW))
    keep = inside[: canvas.height, : canvas.width].view(np.uint8)
    for plane in (canvas.h, canvas.e, canvas.c):
        cv2.multiply(plane, keep, plane)


def _protected(scene: Scene, foci: list[Focus], areas: list[tuple[str, str, Mask]]) -> Mask:
    """Return where no artefact may lie: the lesion, decisive foci, ink, and a rim around them."""
    decisive = (scene.lesion | scene.ink).copy()
    for focus in foci:
        low = decisive.view(np.uint8)
        cv2.fillPoly(low, [np.round(focus.outline / LOW).astype(np.int32)], 1)
    for kind, _, area in areas:
        if kind == "lymphocytes":
            decisive |= area
    return away_um(decisive) < 40


def _truth(
    scene: Scene, foci: list[Focus], areas: list[tuple[str, str, Mask]], mitoses: Points
) -> dict[str, Any]:
    spec = scene.spec
    lesions = []
    main = scene.lesion if spec.diagnosis.lesion else scene.tissue
    narrowed = any(focus.field == "diagnosis" for focus in foci)
    kind = spec.diagnosis.lesion or "normal"
    outlines = [(("adenoma_low" if narrowed else kind), "lesion" if narrowed else "diagnosis", main), *areas]
    if spec.diagnosis.invasive:
        outlines.append((kind, "grade", scene.lesion))
    if spec.excision and "margins" in spec.fields:
        outlines.append(("ink", "margins", _margin_area(scene)))
    for name, field, mask in outlines:
        lesions += [{"kind": name, "field": field, "polygon": ring} for ring in _rings(mask, spec.size_px)]
    lesions += [
        {"kind": focus.kind, "field": focus.field, "polygon": _clip(focus.outline, spec.size_px)}
        for focus in foci
    ]
    return {
        "schema": 1,
        "slide_id": spec.slide_id,
        "seed": spec.seed,
        "index": spec.index,
        "mpp": MPP,
        "size_px": list(spec.size_px),
        "organ": spec.diagnosis.organ,
        "artefacts": list(spec.artefacts),
        "report": spec.report,
        "fields": dict(spec.fields),
        "lesions": lesions,
        "mitoses": [[round(float(x)), round(float(y))] for x, y in mitoses],
        "classes": list(CLASSES),
    }


def _margin_area(scene: Scene) -> Mask:
    """Return what decides the margin: the inked edge; if involved, only its part near the tumour."""
    if scene.spec.fields["margins"] == "uninvolved":
        return away_um(scene.ink) < 60
    near = scene.ink & (scene.lesion_distance_um() < 60)
    return away_um(near) < 90


def _rings(mask: Mask, size_px: tuple[int, int]) -> list[list[list[int]]]:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rings = []
    for contour in contours:
        if cv2.contourArea(contour) >= 12:
            ring = cv2.approxPolyDP(contour, 1.0, True)[:, 0].astype(np.float64)
            rings.append(_clip((ring + 0.5) * LOW, size_px))
    return rings


def _clip(outline: Points, size_px: tuple[int, int]) -> list[list[int]]:
    limit = np.array(size_px) - 1
    return [[int(x), int(y)] for x, y in np.clip(np.round(outline), 0, limit)]
