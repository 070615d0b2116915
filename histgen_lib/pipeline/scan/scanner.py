"""Slide → bag: every tile of a slide through the tile encoder, reading and encoding at the same time.

While the server works on some tiles, the next are read. A few batches are in flight, never more, so memory is
bounded whatever the slide's size. Features come out in the tiles' order and do not depend on how many batches
are in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histgen_lib.bags import Bag
from histgen_lib.inference import InferenceServer
from histgen_lib.models.tile_encoder.serving import NAME
from histgen_lib.pipeline.job import Stages
from histgen_lib.pipeline.model import ReportModel
from histgen_lib.slides import QualityReport, Slide, TileBatch, TileGrid, assess_quality, plan_grid

BATCH_TILES = 32
"""Tiles sent to the server at once: 32 × 256 × 256 × 3 bytes is 6 MB."""

Features = NDArray[np.float16]


@dataclass(frozen=True)
class Scan:
    """The features of a slide, where its tissue is, and how good the picture is.

    `bag` and `grid` have the same tiles: those that are damaged in the file are left out.
    """

    bag: Bag
    grid: TileGrid
    quality: QualityReport


@dataclass(frozen=True)
class Scanner:
    """Cuts slides as a model needs them and encodes their tiles.

    `in_flight`: calls of the server at a time; the bags do not depend on it. `most_tiles`: the tiles that a
    slide may have, see `plan_grid`.
    """

    model: ReportModel
    server: InferenceServer
    in_flight: int = 1
    most_tiles: int | None = None

    def scan(self, slide: Slide, stages: Stages | None = None) -> Scan:
        """Make the bag of an open slide, with bounded memory for pixels.

        The stage "encode" is reported once the first tiles are read. Raises what `plan_grid` and
        `Slide.read_tiles` raise for slides, and what the server raises.
        """
        stages = stages or Stages()
        with stages("grid"):
            grid = plan_grid(slide, self.model.tiling, most_tiles=self.most_tiles)
            quality = assess_quality(slide, grid)
        planned = len(grid)
        features, xy = self._features(slide, grid, stages)
        if len(xy) < planned:
            grid = grid.only(grid.rows_at(xy))
            quality = quality.without(grid, planned - len(xy))
        bag = make_bag(
            slide,
            grid,
            features,
            encoder_name=self.model.encoder_name,
            encoder_sha256=self.model.encoder_sha256,
            encoder_settings=self.model.encoder_settings,
        )
        return Scan(bag=bag, grid=grid, quality=quality)

    def _features(self, slide: Slide, grid: TileGrid, stages: Stages) -> tuple[Features, NDArray[np.int32]]:
        """Return features float16[N, D] and places int32[N, 2] of the tiles that are whole.

        The seconds between the first look for pixels and the last features add up from three stages: "read",
        while no pixels are there to be sent; "encode", while all that may be with the server is; and "wait",
        for neither.
        """
        places: list[NDArray[np.int32]] = []
        parts: list[Features] = []
        done, total = 0, len(grid)

        def noted(batches: Iterator[TileBatch]) -> Iterator[TileBatch]:
            for batch in batches:
                if not places:
                    stages.report("encode", 0, total)
                places.append(batch.xy)
                yield batch

        with (
            stages.timed("wait"),
            closing(slide.read_tiles(grid, batch_size=BATCH_TILES)) as batches,
            closing(encode_batches(noted(batches), self.server, stages, in_flight=self.in_flight)) as encoded,
        ):
            for part in encoded:
                parts.append(part)
                done += len(part)
                stages.report("encode", done, total)
        if done < total:  # the rest is damaged
            stages.report("encode", total, total)
        return np.concatenate(parts), np.concatenate(places)


def make_bag(
    slide: Slide,
    grid: TileGrid,
    features: Features,
    *,
    encoder_name: str,
    encoder_sha256: str,
    encoder_settings: str,
) -> Bag:
    """Combine the features float16[N, D] of a slide's tiles, in `grid`'s order, with where they come from."""
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
        encoder_settings=encoder_settings,
    )


def encode_batches(
    batches: Iterator[TileBatch], server: InferenceServer, stages: Stages, *, in_flight: int = 1
) -> Generator[Features, None, None]:
    """Yield the features float16[B, D] of each batch, in order; `in_flight` calls of `server` at a time.

    At most `in_flight` + 1 batches are held. The caller's thread waits for pixels ("read") and for the server
    ("encode"): `stages` gets the seconds of both, and none other. When this ends, however it ends, no call is
    still running.
    """
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="histgen-encode")
    pending: deque[Future[Features]] = deque()
    try:
        while (batch := _next(batches, stages)) is not None:
            pending.append(pool.submit(_encode, server, batch))
            if len(pending) > in_flight:
                yield _first(pending, stages)
        while pending:
            yield _first(pending, stages)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _next(batches: Iterator[TileBatch], stages: Stages) -> TileBatch | None:
    with stages.timed("read"):
        return next(batches, None)


def _first(pending: deque[Future[Features]], stages: Stages) -> Features:
    with stages.timed("encode"):
        return pending.popleft().result()


def _encode(server: InferenceServer, batch: TileBatch) -> Features:
    return server.infer(NAME, {"tiles": batch.pixels})["features"].astype(np.float16)
