"""Training tiles: cut from synthetic slides with the truth of each tile, and kept on disk.

One pair of files per slide, each written atomically: an interrupted run goes on with the next slide. The
tiles are then mapped into memory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from histgen_lib.cores import cores
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import atomic_path, canonical_json, write_atomic
from histgen_lib.names import place_in
from histgen_lib.processes import process_pool
from histgen_lib.slides import TilingSettings, open_slide, plan_grid
from histgen_lib.training.annotation import SPLITS, read_annotation
from histgen_lib.training.encoder.settings import TileTrainSettings
from histgen_lib.training.matching import index_files, match_cases
from histgen_lib.training.tracking import TrainProgress

CELL_PX = 64
"""Side of a cell of the truth map in level-0 pixels (16 µm at 0.25 mpp)."""

MEETINGS: tuple[tuple[str, str], ...] = (("tumour", "ink"), ("tumour", "smooth_muscle"))
"""Pairs of tissues whose contact decides a field (margins; invasion of the muscle), each its own target."""

_TOUCH_CELLS = 1
NO_GRADE = -1

SLIDE_SUFFIXES = (".tif", ".tiff", ".svs")
_COMMON_SHARE = 0.02
"""A class that fills more than this share of a slide is common there; its tiles are kept only by chance."""


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
    """One slide's truth: class names, class map uint8[h, w], mitoses float32[M, 2] in level-0 px, fields."""

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
            hint="Train a tile encoder on a folder that `histgen synth` wrote.",
        ) from error


def tile_targets(truth: SlideTruth, xy: NDArray[np.int32], span_px: float) -> TileTargets:
    """Return the truth of tiles with top-left corners `xy` int32[N, 2] and side `span_px`, in level-0 px."""
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
    """Return the class numbers of invasive tumours (and of tumour with lymphocytes in it)."""
    return [number for number, name in enumerate(classes) if name in _INVASIVE]


def _touching(truth: SlideTruth, pair: tuple[str, str]) -> NDArray[np.uint8]:
    """Mark cells of a pair's first tissue within one cell of the second: uint8[h, w] of 0 and 1."""
    kernel = np.ones((2 * _TOUCH_CELLS + 1,) * 2, dtype=np.uint8)
    first, second = (_layer(truth, name) for name in pair)
    grown = cv2.dilate(second, kernel)
    return np.asarray(first & grown, dtype=np.uint8)


def _layer(truth: SlideTruth, name: str) -> NDArray[np.uint8]:
    numbers = tumour_classes(truth.classes) if name == "tumour" else [truth.classes.index(name)]
    return np.isin(truth.cells, numbers).astype(np.uint8)


def _windows(cells: NDArray[np.uint8], xy: NDArray[np.int32], side: int) -> NDArray[np.uint8]:
    """Cut the side × side cells under each tile; beyond the map is class 0."""
    padded = np.pad(cells, ((0, side), (0, side)))
    corners = np.clip(np.rint(xy / CELL_PX).astype(int), 0, [cells.shape[1], cells.shape[0]])
    return np.stack([padded[y : y + side, x : x + side] for x, y in corners]).astype(np.uint8)


def _counts(points: NDArray[np.float32], xy: NDArray[np.int32], span_px: float) -> NDArray[np.float32]:
    """Count the points in each tile."""
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


@dataclass(frozen=True)
class TileSet:
    """Tiles of many slides: `pixels[i]` uint8[n_i, tile_px, tile_px, 3], mapped; `targets` of all N."""

    classes: tuple[str, ...]
    pixels: tuple[NDArray[np.uint8], ...]
    slide_of: NDArray[np.int64]
    row_of: NDArray[np.int64]
    targets: TileTargets

    def __len__(self) -> int:
        return len(self.slide_of)

    def tile(self, index: int) -> NDArray[np.uint8]:
        """Return the pixels of one tile."""
        return np.asarray(self.pixels[self.slide_of[index]][self.row_of[index]], dtype=np.uint8)


@dataclass(frozen=True)
class _Job:
    slide: Path
    truth: Path
    folder: Path
    settings: TileTrainSettings


def cached_tiles(settings: TileTrainSettings, split: str, limit: int, *, quiet: bool = False) -> TileSet:
    """Load the tiles of the first `limit` slides of a split, after cutting those that are not on disk yet.

    InvalidInputError: "training-split-empty", "training-slides-missing", "training-truth-unreadable",
    "training-state-differs", and what opening a slide raises.
    """
    annotation = read_annotation(settings.world / "annotation.json")
    if split not in SPLITS or not annotation.split(split):
        raise InvalidInputError(
            "training-split-empty",
            f"{settings.world} has no {split} split.",
            hint="With --world, name a folder that `histgen synth` wrote with --val-share above 0.",
        )
    files = index_files(settings.world / "slides", SLIDE_SUFFIXES)
    found = match_cases(split, annotation.split(split), files).found
    slides = [path for one in found for path in one.paths][:limit]
    if not slides:
        raise InvalidInputError(
            "training-slides-missing",
            f"None of the {split} split's slides are in {settings.world / 'slides'}.",
            hint="With --world, name a folder that `histgen synth` wrote.",
        )
    folder = settings.run_folder / "tiles"
    _claim(folder, settings)
    jobs = [_Job(path, settings.world / "truth", folder, settings) for path in slides]
    _cut_all([job for job in jobs if not _files(job)[1].exists()], settings.workers, split, quiet)
    return _load(jobs)


def _claim(folder: Path, settings: TileTrainSettings) -> None:
    """Record how the tiles in `folder` are cut. InvalidInputError("training-state-differs") on a mismatch."""
    note = folder / "cutting.json"
    mine = canonical_json({name: getattr(settings, name) for name in _CUTTING})
    if note.exists() and note.read_bytes() != mine:
        raise InvalidInputError(
            "training-state-differs",
            f"{folder} holds tiles that were cut with other settings ({', '.join(_CUTTING)}).",
            hint="Use another output folder, or delete that one to start from scratch.",
        )
    write_atomic(note, mine)


def _cut_all(jobs: Sequence[_Job], workers: int, split: str, quiet: bool) -> None:
    if not jobs:
        return
    count = workers or cores()
    with (
        process_pool(count) as pool,
        TrainProgress(f"cut {split} tiles", len(jobs), quiet=quiet) as progress,
    ):
        for _ in pool.map(_cut, jobs, chunksize=4):
            progress.advance()


def _cut(job: _Job) -> None:
    """Read one slide's most informative tiles and write them with their truth."""
    truth = read_truth(job.truth, job.slide.stem)
    tiling = TilingSettings(
        tile_px=job.settings.tile_px, mpp=job.settings.mpp, min_tissue=job.settings.min_tissue
    )
    with open_slide(job.slide) as slide:
        grid = plan_grid(slide, tiling)
        targets = tile_targets(truth, grid.xy, grid.span_px)
        rng = np.random.default_rng([job.settings.seed, *job.slide.stem.encode()])
        kept = np.sort(choose_tiles(targets, job.settings.tiles_per_slide, rng))
        batches = list(slide.read_tiles(grid))
        whole = grid.rows_at(np.concatenate([batch.xy for batch in batches]))
        kept = kept[whole[kept]]
        pixels = np.concatenate([batch.pixels for batch in batches])[(np.cumsum(whole) - 1)[kept]]
    _write(job, pixels, targets, kept, truth.classes)


def choose_tiles(targets: TileTargets, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose at most `count` tiles: first those with mitoses, meetings or classes rare on the slide."""
    size = int(targets.cells.max()) + 1 if targets.cells.size else 1
    flat = targets.cells.reshape(len(targets.cells), -1)
    presence = np.stack([(flat == number).any(axis=1) for number in range(size)], axis=1)
    share = np.bincount(flat.ravel(), minlength=size) / max(flat.size, 1)
    scarce = (presence & (share < _COMMON_SHARE)).sum(axis=1)
    urgency = scarce + (targets.mitoses > 0) + targets.meetings.any(axis=1) + rng.random(len(flat))
    informative = np.argsort(-urgency, kind="stable")[: count // 2]
    others = rng.permutation(np.setdiff1d(np.arange(len(flat)), informative))[: count - len(informative)]
    return np.concatenate([informative, others]).astype(np.int64)


def _files(job: _Job) -> tuple[Path, Path]:
    """Return the files (pixels, truth). The truth is written last: where it exists, both are complete."""
    stem = job.folder / job.slide.stem
    return stem.with_suffix(".pixels.npy"), stem.with_suffix(".truth.npz")


def _write(
    job: _Job,
    pixels: NDArray[np.uint8],
    targets: TileTargets,
    kept: NDArray[np.int64],
    classes: Sequence[str],
) -> None:
    pixel_path, truth_path = _files(job)
    with atomic_path(pixel_path) as temporary, temporary.open("wb") as handle:
        np.save(handle, pixels)
    with atomic_path(truth_path) as temporary, temporary.open("wb") as handle:
        np.savez(
            handle,
            cells=targets.cells[kept],
            mitoses=targets.mitoses[kept],
            grade=targets.grade[kept],
            meetings=targets.meetings[kept],
            classes=np.array(classes),
        )


def _load(jobs: Sequence[_Job]) -> TileSet:
    pixels, parts = [], []
    for job in jobs:
        pixel_path, truth_path = _files(job)
        pixels.append(np.load(pixel_path, mmap_mode="r"))
        with np.load(truth_path) as stored:
            parts.append({name: stored[name] for name in stored.files})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in _TARGETS}
    return TileSet(
        classes=tuple(str(name) for name in parts[0]["classes"]),
        pixels=tuple(pixels),
        slide_of=np.repeat(np.arange(len(pixels)), [len(p) for p in pixels]),
        row_of=np.concatenate([np.arange(len(p)) for p in pixels]),
        targets=TileTargets(**joined),
    )


_CUTTING = ("tile_px", "mpp", "min_tissue", "tiles_per_slide", "seed")
_TARGETS = ("cells", "mitoses", "grade", "meetings")
