"""Puts the search service together from its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from histgen_lib.inference import InferenceServer
from histgen_lib.models.folder import open_model_folder
from histgen_lib.retrieval import CaseIndex, CaseIndexSettings
from histgen_lib.retrieval.searching import Searcher
from histgen_lib.retrieval.subjects import network_of
from histgen_lib.runtime.board import WebBoard
from histgen_lib.runtime.loops import Loop, LoopContext
from histgen_lib.runtime.service import WebService
from histgen_lib.runtime.stopping import Stop
from histgen_lib.storage import ObjectStore, open_store
from histgen_lib.telemetry import metrics
from services.search import NAME
from services.search.http import SearchApi
from services.search.keeping import (
    Holding,
    IndexKeeping,
    ModelKeeping,
    WithdrawalKeeping,
)
from services.search.settings import SEARCH, SearchSettings
from services.wiring import http_address, inference_server, storage_settings


@dataclass
class SearchBoard(WebBoard):
    """The service's state: it needs an index, and to know what is withdrawn, before it answers."""

    worker: str = NAME
    missing: dict[str, str] = field(default_factory=lambda: {"index": "starting", "store": "starting"})
    retries: tuple[str, ...] = SEARCH.retries

    def __post_init__(self) -> None:
        super().__post_init__()
        metrics.show_search()


def build(
    settings: SearchSettings,
    stop: Stop,
    *,
    store: ObjectStore | None = None,
    server: InferenceServer | None = None,
    open_index: Callable[[], CaseIndex] | None = None,
) -> WebService:
    """Make the service, ready to run. Raises FatalError for settings that cannot be used."""
    store = store or open_store(storage_settings(settings))
    server = server or inference_server(settings, threads=settings.threads)
    network = network_of(open_model_folder(settings.model), server)
    holding = Holding(lambda index: Searcher(index, network, store, readers=settings.search_threads))
    board = SearchBoard()
    context = LoopContext(board, stop, settings.grace_s)
    loops: list[Loop] = [
        IndexKeeping(context, holding, open_index or partial(_open_index, settings), settings.search_look_s),
        WithdrawalKeeping(context, holding, store, settings.search_withdrawals_s),
    ]
    if network:
        loops.append(ModelKeeping(context, server))
    api = SearchApi(
        holding,
        board,
        stop,
        threads=settings.search_threads,
        waiting=settings.search_waiting,
        patience_s=settings.search_s,
        config=settings.in_force(),
        body_s=settings.http_body_s,
    )

    def close() -> None:
        api.close()
        holding.close()

    return WebService(
        app=api.app(),
        address=http_address(settings),
        board=board,
        stop=stop,
        probe=None,
        loops=loops,
        grace_s=settings.grace_s,
        close=close,
    )


def _open_index(settings: SearchSettings) -> CaseIndex:
    from histgen_lib.retrieval import open_case_index  # loads the database, which the start need not wait for

    storage = storage_settings(settings, settings.case_index)
    return open_case_index(CaseIndexSettings(storage, resident=True))
