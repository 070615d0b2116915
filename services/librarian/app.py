"""The librarian's settings, codes and handler. What is heavy is loaded when the handler is made."""

from __future__ import annotations

from pydantic import Field

from histgen_lib.errors import FatalError
from histgen_lib.storage import open_store
from histgen_lib.worker import Handler
from services.codes import BAG, INFERENCE, OBJECT, WORKER, Codes
from services.settings import ServiceSettings, StoreUrl
from services.wiring import inference_server, storage_settings

CODES = (
    WORKER
    + OBJECT
    + INFERENCE
    + BAG
    + Codes(
        retries=("case-index-contended", "case-index-unavailable"),
        stages=("encode", "store", "withdraw", "compact"),
    )
)


class LibrarianSettings(ServiceSettings):
    """The settings of `python -m services.librarian`."""

    case_index: StoreUrl = Field(
        description='where the case index is, which has a place of its own: "file:/folder" or "s3://bucket/prefix"'
    )
    compact_every: int = Field(
        500, ge=1, le=1_000_000, description="slides, at least, between two compactions of the case index"
    )


def make_librarian(settings: LibrarianSettings) -> Handler:
    """Make the librarian's handler, in the process that does its jobs.

    Raises FatalError("model-without-retrieval").
    """
    from histgen_lib.models.folder import open_model_folder
    from histgen_lib.pipeline.shelve.job import ShelveJob
    from histgen_lib.retrieval import CaseIndexSettings, open_case_index
    from histgen_lib.retrieval.subjects import network_of
    from histgen_lib.worker.handler import JobHandler

    folder = open_model_folder(settings.model)
    network = network_of(folder, inference_server(settings, threads=settings.threads))
    if network is None:
        raise FatalError(
            "model-without-retrieval",
            f"The model {folder.name} has no retrieval network, so there is no case index to keep.",
            hint="Train one into the model folder, or do not start the librarian.",
        )
    index = open_case_index(CaseIndexSettings(storage_settings(settings, settings.case_index)))
    store = open_store(storage_settings(settings))
    job = ShelveJob(store, index, network, folder.name, settings.compact_every)
    return JobHandler(job, "librarian")
