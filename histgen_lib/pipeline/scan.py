"""scan→bag: every tile of a slide through the tile encoder, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histgen_lib.bags import Bag
from histgen_lib.inference import InferenceServer
from histgen_lib.pipeline.model import ReportModel
from histgen_lib.pipeline.progress import Progress, silent
from histgen_lib.slides import QualityReport, Slide, TileGrid, assess_quality, plan_grid

BATCH_TILES = 32
"""Tiles in memory at once: 32 × 256 × 256 × 3 bytes is 6 MB."""


@dataclass(frozen=True)
class Scan:
    """What was made of a slide: its features, where the tissue is, and how good the picture is."""

    bag: Bag
    grid: TileGrid
    quality: QualityReport


def scan_to_bag(
    slide: Slide, *, model: ReportModel, server: InferenceServer, progress: Progress = silent
) -> Scan:
    """Cut an open slide as the model wants it and encode its tiles, with bounded memory for pixels.

    Raises what `plan_grid` and `Slide.read_tiles` raise for slides, and what the server raises.
    """
    progress("grid", 0, 1)
    grid = plan_grid(slide, model.tiling)
    quality = assess_quality(slide, grid)
    progress("grid", 1, 1)
    features = np.concatenate(list(_features(slide, grid, server, progress)))
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
    slide: Slide, grid: TileGrid, server: InferenceServer, progress: Progress
) -> Iterator[NDArray[np.float16]]:
    done = 0
    progress("encode", 0, len(grid))
    for batch in slide.read_tiles(grid, batch_size=BATCH_TILES):
        yield server.infer("tile_encoder", {"tiles": batch.pixels})["features"].astype(np.float16)
        done += len(batch)
        progress("encode", done, len(grid))
