"""The reporter's settings, codes and handler. What is heavy is loaded when the handler is made."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from histgen_lib.storage import open_store
from histgen_lib.worker import Handler
from services.codes import BAG, INFERENCE, OBJECT, SLIDE, WORKER, Codes
from services.settings import EmptyIsNone, ServiceSettings
from services.wiring import inference_server, slide_files, storage_settings

CODES = (
    WORKER
    + OBJECT
    + SLIDE
    + INFERENCE
    + BAG
    + Codes(
        letters=(
            "case-slide-elsewhere",
            "case-slide-unlisted",
            "case-unreadable",
            "names-not-told-apart",
            "scan-record-unreadable",
        ),
        stages=("open", "generate", "read", "render", "store"),
    )
)


class ReporterSettings(ServiceSettings):
    """The settings of `python -m services.reporter`."""

    beam_size: Annotated[int | None, EmptyIsNone] = Field(
        None, ge=1, le=32, description="beams of the search; the model's own number if not set"
    )


def make_reporter(settings: ReporterSettings) -> Handler:
    """Make the reporter's handler, in the process that does its jobs."""
    from histgen_lib.models.histgen.serving import NAME
    from histgen_lib.pipeline import Drafter, load_model
    from histgen_lib.pipeline.draft.job import DraftJob
    from histgen_lib.pipeline.model import warm_up
    from histgen_lib.worker.handler import JobHandler

    model, server = load_model(settings.model), inference_server(settings, threads=settings.threads)
    warm_up(model, server, NAME)
    drafter = Drafter(model, server, settings.beam_size)
    store = open_store(storage_settings(settings))
    return JobHandler(DraftJob(drafter, store, slide_files(settings)), "reporter")
