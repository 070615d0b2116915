"""What is true of each tile of a synthetic slide: its cells' classes, its mitoses, its tumour's grade."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError
from histgen_lib.names import place_in

CELL_PX = 64
"""Level-0 pixels a side of one cell of the truth map (16 µm at 0.25 mpp)."""

MEETINGS: tuple[tuple[str, str], ...] = (("tumour", "ink"), ("tumour", "smooth_muscle"))
"""Pairs whose touching decides something (margins; invasion of the muscle), each a target of its own."""

_TOUCH_CELLS = 1
NO_GRADE = -1


@dataclass(frozen=True)
class TileTargets:
    """Truth of N tiles.

    cells     uint8[N, C, C] class of each cell
    mitoses   float32[N] mitoses inside the tile
    grade     int64[N]   0…2, or NO_GRADE without enough invasive tumour
    meetings  float32[N, len(MEETINGS)] 1 where the two touch inside the tile
    """

    cells: NDArray[np.uint8]
    mitoses: NDArray[np.float32]
    grade: NDArray[np.int64]
    meetings: NDArray[np.float32]


@dataclass(frozen=True)
class SlideTruth:
    """One slide's truth: class names, class map uint8[h, w], mitoses float32[M, 2] level-0 px, fields."""

    classes: tuple[str, ...]
    cells: NDArray[np.uint8]
    mitoses: NDArray[np.float32]
    fields: dict[str, str]


def read_truth(folder: Path, slide_id: str) -> SlideTruth:
    """Read truth/<slide_id>.json and .png. InvalidInputError("training-truth-unreadable")."""
    try:
        content = json.loads(place_in(folder, slide_id, ".json").read_bytes())
        cells = cv2.imread(str(place_in(folder, slide_id, ".png")), cv2.IMREAD_UNCHANGED)
        if cells is None or cells.ndim != 2:
            raise ValueError("no class map")
        return SlideTruth(
            classes=tuple(content["classes"]),
            cells=np.asarray(cells, dtype=np.uint8),
            mitoses=np.asarray(content["mitoses"], dtype=np.float32).reshape(-1, 2),
            fields=dict(content["fields"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            "training-truth-unreadable",
            f"The truth of {slide_id} in {folder} cannot be read ({error}).",
            hint="A tile encoder is trained on a folder written by `histgen synth`.",
        ) from error


def tile_targets(truth: SlideTruth, xy: NDArray[np.int32], span_px: float) -> TileTargets:
    """Truth of the tiles with top-left corners `xy` int32[N, 2] and side `span_px`, both in level-0 px."""
    side = max(1, round(span_px / CELL_PX))
    tumour = tumour_classes(truth.classes)
    touching = np.stack([_touching(truth, pair) for pair in MEETINGS])
    cells = _windows(truth.cells, xy, side)
    meets = np.stack([_windows(layer, xy, side).any(axis=(1, 2)) for layer in touching], axis=1)
    share = np.isin(cells, tumour).mean(axis=(1, 2))
    grade = int(truth.fields["grade"]) - 1 if truth.fields.get("grade", "") in {"1", "2", "3"} else NO_GRADE
    return TileTargets(
        cells=cells,
        mitoses=_counts(truth.mitoses, xy, span_px),
        grade=np.where(share >= 0.15, grade, NO_GRADE).astype(np.int64),
        meetings=meets.astype(np.float32),
    )


def tumour_classes(classes: Sequence[str]) -> list[int]:
    """Numbers of the invasive tumours among class names (and of tumour with lymphocytes in it)."""
    return [number for number, name in enumerate(classes) if name in _INVASIVE]


def _touching(truth: SlideTruth, pair: tuple[str, str]) -> NDArray[np.uint8]:
    """Cells of the first of a pair within one cell of the second: uint8[h, w] of 0 and 1."""
    kernel = np.ones((2 * _TOUCH_CELLS + 1,) * 2, dtype=np.uint8)
    first, second = (_layer(truth, name) for name in pair)
    grown = cv2.dilate(second, kernel)
    return np.asarray(first & grown, dtype=np.uint8)


def _layer(truth: SlideTruth, name: str) -> NDArray[np.uint8]:
    wanted = tumour_classes(truth.classes) if name == "tumour" else [truth.classes.index(name)]
    return np.isin(truth.cells, wanted).astype(np.uint8)


def _windows(cells: NDArray[np.uint8], xy: NDArray[np.int32], side: int) -> NDArray[np.uint8]:
    """Cut the side × side cells under each tile; beyond the map is class 0."""
    padded = np.pad(cells, ((0, side), (0, side)))
    corners = np.clip(np.rint(xy / CELL_PX).astype(int), 0, [cells.shape[1], cells.shape[0]])
    return np.stack([padded[y : y + side, x : x + side] for x, y in corners]).astype(np.uint8)


def _counts(points: NDArray[np.float32], xy: NDArray[np.int32], span_px: float) -> NDArray[np.float32]:
    """How many of the points lie in each tile."""
    inside = (points[None] >= xy[:, None]) & (points[None] < xy[:, None] + span_px)
    return np.asarray(inside.all(axis=2).sum(axis=1), dtype=np.float32)


_INVASIVE = frozenset(
    {
        "breast_nst",
        "breast_mucinous",
        "colon_adenocarcinoma",
        "colon_mucinous",
        "gastric_intestinal",
        "gastric_poorly_cohesive",
        "prostate_acinar",
        "lung_adenocarcinoma",
        "lung_squamous",
        "lung_small_cell",
        "urothelial_carcinoma",
        "lymphocytes_in_tumour",
    }
)
