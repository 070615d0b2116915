"""The tiler's settings, codes and handler. What is heavy is loaded when the handler is made."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from histgen_lib.cores import cores
from histgen_lib.slides.limits import DEFAULT_TILES
from histgen_lib.storage import open_store
from histgen_lib.worker import Handler
from services.codes import INFERENCE, OBJECT, SLIDE, WORKER, Codes
from services.settings import EmptyIsNone, ServiceSettings
from services.wiring import inference_server, slide_files, storage_settings

MOST_IN_FLIGHT = 16
"""Batches of 6 MB held at once, at most."""
BAG_TILES = 1 << 20
"""A bag with more tiles is not read (`bag-too-large`)."""

CODES = (
    WORKER
    + OBJECT
    + SLIDE
    + INFERENCE
    + Codes(
        letters=(
            "slide-id-taken",
            "slide-no-tissue",
            "slide-open-slow",
            "slide-too-coarse",
            "slide-too-many-tiles",
        ),
        stages=("open", "grid", "read", "encode", "wait", "render", "store"),
    )
)


class TilerSettings(ServiceSettings):
    """The settings of `python -m services.tiler`."""

    in_flight: Annotated[int | None, EmptyIsNone] = Field(
        None,
        ge=1,
        le=MOST_IN_FLIGHT,
        description="batches encoded at a time; one per core if not set, or 3 with Triton",
    )
    slide_tiles: int = Field(
        DEFAULT_TILES, ge=1, le=BAG_TILES, description="most tiles of tissue that a slide may have"
    )
    slide_open_s: float = Field(
        900.0, gt=0, description="seconds that fetching and opening a slide may take, up to its first tiles"
    )

    @property
    def opening_s(self) -> float:
        """See ServiceSettings."""
        return self.slide_open_s


def make_tiler(settings: TilerSettings) -> Handler:
    """Make the tiler's handler, in the process that does its jobs."""
    from histgen_lib.models.tile_encoder.serving import NAME
    from histgen_lib.pipeline import Scanner, load_model
    from histgen_lib.pipeline.model import warm_up
    from histgen_lib.pipeline.scan.job import ScanJob
    from histgen_lib.worker.handler import JobHandler

    # Tiles side by side on a core each: faster than one tile on all cores, and the same bytes.
    model, server = load_model(settings.model), inference_server(settings, threads=1)
    warm_up(model, server, NAME)
    by_model = min(settings.threads or cores(), MOST_IN_FLIGHT) if settings.inference == "onnx" else 3
    scanner = Scanner(model, server, settings.in_flight or by_model, settings.slide_tiles)
    store = open_store(storage_settings(settings))
    return JobHandler(ScanJob(scanner, store, slide_files(settings)), "tiler")
