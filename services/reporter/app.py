"""Puts the reporter together: light to import, as the worker's parent process does; heavy when it is made."""

from __future__ import annotations

from histgen_lib.storage import open_store
from histgen_lib.worker import Handler
from services.reporter.settings import ReporterSettings
from services.wiring import inference_server, slide_files, storage_settings

NAME = "reporter"


def make_reporter(settings: ReporterSettings) -> Handler:
    """Make the reporter's handler, in the process that does its jobs."""
    from histgen_lib.pipeline import Drafter, load_model
    from histgen_lib.pipeline.draft.job import MODEL, DraftJob
    from histgen_lib.pipeline.model import warm_up
    from histgen_lib.worker.handler import JobHandler

    model, server = load_model(settings.model), inference_server(settings, threads=settings.threads)
    warm_up(model, server, MODEL)
    drafter = Drafter(model, server, settings.beam_size)
    store = open_store(storage_settings(settings))
    return JobHandler(DraftJob(drafter, store, slide_files(settings)), NAME)
