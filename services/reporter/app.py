"""The reporter's settings, codes and handler. What is heavy is loaded when the handler is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from histgen_lib.storage import ObjectStore, open_store
from histgen_lib.worker import Handler
from services.codes import BAG, INFERENCE, OBJECT, SLIDE, WORKER, Codes
from services.settings import EmptyIsNone, ServiceSettings, StoreUrl
from services.wiring import inference_server, slide_files, storage_settings

if TYPE_CHECKING:
    from histgen_lib.pipeline.draft.similar import NearestCases

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
        stages=("open", "generate", "similar", "read", "render", "store"),
    )
)


class ReporterSettings(ServiceSettings):
    """The settings of `python -m services.reporter`."""

    beam_size: Annotated[int | None, EmptyIsNone] = Field(
        None, ge=1, le=32, description="beams of the search; the model's own number if not set"
    )
    case_index: Annotated[StoreUrl | None, EmptyIsNone] = Field(
        None, description="the case index, a folder or S3 prefix of its own; no similar cases if not set"
    )
    similar_cases: int = Field(3, ge=0, le=10, description="similar signed cases on a draft; 0 for none")
    similar_s: float = Field(
        5.0, gt=0, le=60, description="seconds that a draft waits for them before it goes without"
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
    nearest = _nearest_cases(settings, store) if model.folder.retrieval else None
    return JobHandler(DraftJob(drafter, store, slide_files(settings), nearest), "reporter")


def _nearest_cases(settings: ReporterSettings, store: ObjectStore) -> NearestCases | None:
    """Return what looks for similar cases, which begins to open the index; None where none is named."""
    from histgen_lib.pipeline.draft.similar import NearestCases
    from histgen_lib.retrieval import CaseIndexSettings, open_case_index

    if settings.case_index is None or not settings.similar_cases:
        return None
    where = CaseIndexSettings(storage_settings(settings, settings.case_index))
    nearest = NearestCases(
        lambda: open_case_index(where), store, count=settings.similar_cases, limit_s=settings.similar_s
    )
    nearest.warm()
    return nearest
