"""Encoding slides in bulk: a bag for each slide of a folder, in several processes, resumable.

A slide that already has a bag by the same encoder and tiling is not encoded again; a slide that cannot be
read does not stop the others and is listed at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from histgen_lib.access import finding
from histgen_lib.bags import Bag, read_bag, write_bag
from histgen_lib.cores import cores
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError
from histgen_lib.models.tile_encoder.registry import TileNetwork
from histgen_lib.names import place_in, slide_id_of
from histgen_lib.pipeline.scan.scanner import make_bag
from histgen_lib.slides import Slide, open_slide, plan_grid
from histgen_lib.training.encoder.folder import EncoderFolder, open_encoder
from histgen_lib.training.tracking import TrainProgress

_BATCH_TILES = 32


@dataclass(frozen=True)
class EncodeSettings:
    """What to encode with which encoder.

    slides   folders or single files
    encoder  folder of a tile encoder, or of a model
    out      gets <slide_id>.parquet
    mpp      overrides the slides' resolution
    workers  processes, one thread each (0: one per core)
    """

    slides: Sequence[Path]
    encoder: Path
    out: Path
    mpp: float | None = None
    workers: int = 0


@dataclass
class EncodeResult:
    """Numbers of bags written and kept, and (slide, reason) for slides that could not be encoded."""

    written: int = 0
    kept: int = 0
    failed: list[tuple[Path, HistgenError]] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    slide: Path
    encoder: Path
    out: Path
    mpp: float | None


def encode_slides(settings: EncodeSettings, *, quiet: bool = False) -> EncodeResult:
    """Encode every slide.

    InvalidInputError: "training-slides-missing" if there is none, "training-slides-same-name" if two
    would share a bag. FatalError: "training-encoder-unreadable", "training-worker-died".
    """
    slides = find_slides(settings.slides)
    jobs = [_Job(path, settings.encoder, settings.out, settings.mpp) for path in slides]
    if not jobs:
        names = ", ".join(str(path) for path in settings.slides)
        raise InvalidInputError(
            "training-slides-missing",
            f"There are no slides in {names}.",
            hint=f"Check the path; file names of slides end in {finding.looked_for()}.",
        )
    _require_own_names(slides)
    open_encoder(settings.encoder)
    result = EncodeResult()
    workers = min(settings.workers or cores(), len(jobs))
    with (
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
        TrainProgress("encode", len(jobs), quiet=quiet) as progress,
    ):
        try:
            for job, outcome in zip(jobs, pool.map(_encode, jobs), strict=True):
                _count(result, job, outcome)
                progress.advance(1, job.slide.name)
        except BrokenProcessPool as error:
            raise FatalError(
                "training-worker-died",
                "A process that encodes slides was killed, most likely because memory ran out.",
                hint="Run the command again with fewer --workers; finished bags are kept.",
            ) from error
    return result


def find_slides(places: Sequence[Path]) -> list[Path]:
    """List the slides among `places` and in folders, each once; for DICOM files, their folder."""
    found = [finding.find_slides(place).slides if place.is_dir() else [place] for place in places]
    return list(dict.fromkeys(chain.from_iterable(found)))


def _require_own_names(slides: Sequence[Path]) -> None:
    owners: dict[str, Path] = {}
    for path in slides:
        other = owners.setdefault(slide_id_of(path), path)
        if other != path:
            raise InvalidInputError(
                "training-slides-same-name",
                f"{other} and {path} would share one bag.",
                hint="Rename one of them, or encode them into different folders.",
            )


def slide_bag(slide: Slide, encoder: TileNetwork, folder: EncoderFolder) -> Bag:
    """Encode all whole tiles of an open slide into a bag."""
    grid = plan_grid(slide, folder.tiling)
    parts, places = [], []
    with torch.inference_mode():
        for batch in slide.read_tiles(grid, batch_size=_BATCH_TILES):
            parts.append(encoder(torch.from_numpy(batch.pixels)).half().numpy())
            places.append(batch.xy)
    whole = grid.only(grid.rows_at(np.concatenate(places)))
    return make_bag(
        slide, whole, np.concatenate(parts), encoder_name=folder.name, encoder_sha256=folder.sha256
    )


def _encode(job: _Job) -> str | HistgenError:
    """Encode one slide in a worker process; return an error as a value."""
    torch.set_num_threads(1)
    try:
        folder, encoder = _encoder(job.encoder)
        with open_slide(job.slide, mpp=job.mpp) as slide:
            path = place_in(job.out, slide.slide_id, ".parquet")
            if _is_done(path, folder, slide):
                return "kept"
            write_bag(slide_bag(slide, encoder, folder), path)
    except HistgenError as error:
        return error
    return "written"


@lru_cache(maxsize=1)
def _encoder(path: Path) -> tuple[EncoderFolder, TileNetwork]:
    folder = open_encoder(path)
    return folder, folder.load()


def _is_done(path: Path, folder: EncoderFolder, slide: Slide) -> bool:
    """Return whether `path` is a complete bag of this slide by this encoder and tiling.

    InvalidInputError("training-slides-same-name") if it is of a slide of another size: it would be lost.
    """
    if not path.exists():
        return False
    try:
        bag = read_bag(path)
    except HistgenError:
        return False
    if tuple(bag.slide_size) != tuple(slide.size):
        raise InvalidInputError(
            "training-slides-same-name",
            f"{path} is the bag of another slide that is also named {bag.slide_id}.",
            hint="Rename one of them, or encode them into different folders.",
        )
    return (bag.encoder_sha256, bag.tile_px, bag.mpp) == (
        folder.sha256,
        folder.tiling.tile_px,
        folder.tiling.mpp,
    )


def _count(result: EncodeResult, job: _Job, outcome: str | HistgenError) -> None:
    if isinstance(outcome, HistgenError):
        result.failed.append((job.slide, outcome))
    elif outcome == "kept":
        result.kept += 1
    else:
        result.written += 1
