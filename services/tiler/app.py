"""Puts the tiler together: light to import, as the worker's parent process does; heavy when it is made."""

from __future__ import annotations

from histgen_lib.cores import cores
from histgen_lib.storage import open_store
from histgen_lib.worker import Handler
from services.tiler.settings import MOST, TilerSettings
from services.wiring import inference_server, slide_files, storage_settings

NAME = "tiler"


def make_tiler(settings: TilerSettings) -> Handler:
    """Make the tiler's handler, in the process that does its jobs."""
    from histgen_lib.pipeline import Scanner, load_model
    from histgen_lib.pipeline.model import warm_up
    from histgen_lib.pipeline.scan.job import MODEL, ScanJob
    from histgen_lib.worker.handler import JobHandler

    # Tiles side by side on a core each: faster than one tile on all cores, and the same bytes.
    model, server = load_model(settings.model), inference_server(settings, threads=1)
    warm_up(model, server, MODEL)
    by_model = min(settings.threads or cores(), MOST) if settings.inference == "onnx" else 3
    scanner = Scanner(model, server, settings.in_flight or by_model, settings.slide_tiles)
    store = open_store(storage_settings(settings))
    return JobHandler(ScanJob(scanner, store, slide_files(settings)), NAME)
