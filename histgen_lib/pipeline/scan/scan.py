"""scan→bag: every tile of a slide through the tile encoder, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histgen_lib.bags import Bag
from histgen_lib.inference import InferenceServer
from histgen_lib.pipeline.model import ReportModel
from histgen_lib.pipeline.progress import Progress, silent
from histgen_lib.pipeline.scan.encoding import encode_batches
from histgen_lib.pipeline.timing import Stages
from histgen_lib.slides import QualityReport, Slide, TileBatch, TileGrid, assess_quality, plan_grid

BATCH_TILES = 32
"""Tiles given to the server at once: 32 × 256 × 256 × 3 bytes is 6 MB."""


@dataclass(frozen=True)
class Scan:
    """What was made of a slide: its features, where the tissue is, and how good the picture is.

    `bag` and `grid` have the same tiles: those that the file has damaged are left out.
    """

    bag: Bag
    grid: TileGrid
    quality: QualityReport


def scan_to_bag(
    slide: Slide,
    *,
    model: ReportModel,
    server: InferenceServer,
    in_flight: int = 1,
    most_tiles: int | None = None,
    progress: Progress = silent,
    stages: Stages | None = None,
) -> Scan:
    """Cut an open slide as the model wants it and encode its tiles, with bounded memory for pixels.

    `in_flight`: calls of the server at a time; the bag does not depend on it. `most_tiles`: see `plan_grid`.
    The stage "encode" is told of once the first tiles are read. Raises what `plan_grid` and
    `Slide.read_tiles` raise for slides, and what the server raises.
    """
    stages = stages or Stages()
    progress("grid", 0, 1)
    with stages("grid"):
        grid = plan_grid(slide, model.tiling, most_tiles=most_tiles)
        quality = assess_quality(slide, grid)
    progress("grid", 1, 1)
    planned = len(grid)
    features, xy = _features(slide, grid, server, in_flight=in_flight, progress=progress, stages=stages)
    if len(xy) < planned:
        grid = grid.only(grid.rows_at(xy))
        quality = quality.without(grid, planned - len(xy))
    bag = make_bag(
        slide, grid, features, encoder_name=model.encoder_name, encoder_sha256=model.encoder_sha256
    )
    return Scan(bag=bag, grid=grid, quality=quality)


def make_bag(
    slide: Slide,
    grid: TileGrid,
    features: NDArray[np.float16],
    *,
    encoder_name: str,
    encoder_sha256: str,
) -> Bag:
    """Put the features float16[N, D] of a slide's tiles, in `grid`'s order, with where they come from."""
    return Bag(
        slide_id=slide.slide_id,
        features=features,
        xy=grid.xy,
        span_px=grid.span_px,
        tile_px=grid.tile_px,
        mpp=grid.mpp,
        slide_mpp=slide.mpp,
        slide_size=slide.size,
        encoder_name=encoder_name,
        encoder_sha256=encoder_sha256,
    )


def _features(
    slide: Slide,
    grid: TileGrid,
    server: InferenceServer,
    *,
    in_flight: int,
    progress: Progress,
    stages: Stages,
) -> tuple[NDArray[np.float16], NDArray[np.int32]]:
    """Return features float16[N, D] and places int32[N, 2] of the tiles that are whole."""
    places: list[NDArray[np.int32]] = []
    parts: list[NDArray[np.float16]] = []
    done = 0
    with (
        closing(slide.read_tiles(grid, batch_size=BATCH_TILES)) as batches,
        closing(
            encode_batches(
                _noted(batches, places, lambda: progress("encode", 0, len(grid))),
                server,
                in_flight=in_flight,
                stages=stages,
            )
        ) as encoded,
    ):
        for part in encoded:
            parts.append(part)
            done += len(part)
            progress("encode", done, len(grid))
    if done < len(grid):  # the rest is damaged
        progress("encode", len(grid), len(grid))
    return np.concatenate(parts), np.concatenate(places)


def _noted(
    batches: Iterator[TileBatch], places: list[NDArray[np.int32]], at_first: Callable[[], None]
) -> Iterator[TileBatch]:
    for batch in batches:
        if not places:
            at_first()
        places.append(batch.xy)
        yield batch
