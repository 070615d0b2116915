"""The search service's HTTP API: POST /search, GET /cases and /state, beside the pages of every service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.retrieval.answers import answer_json, entry_json, state_json
from histgen_lib.retrieval.questions import Question, check
from histgen_lib.retrieval.searching import Answer
from histgen_lib.runtime.board import WebBoard
from histgen_lib.runtime.stopping import Stop
from histgen_lib.runtime.web.api import JsonApi, json_reply, wrong_method
from histgen_lib.runtime.web.bodies import read_body
from histgen_lib.runtime.web.server import health_app
from histgen_lib.telemetry import metrics
from services.search.keeping import Holding
from services.search.request import read_question, read_slide

T = TypeVar("T")

MOST_BYTES = 64 << 10
_STATUS = {
    "query-slide-unknown": 404,
    "query-text-too-long": 413,
    "model-no-retrieval": 409,
}


class SearchApi(JsonApi):
    """Answers requests that the door has let through.

    `threads`: searches that run at a time, and as many more that read a slide from the store, so that a slow
    store does not hold up others. `waiting`: how many more may wait. `patience_s`: after that a request is
    answered 503, whatever it waits for. `config`, `body_s`: as for the gateway's.
    """

    def __init__(
        self,
        holding: Holding,
        board: WebBoard,
        stop: Stop,
        *,
        threads: int = 4,
        waiting: int = 64,
        patience_s: float = 30.0,
        config: Mapping[str, Any] | None = None,
        body_s: float = 30.0,
    ) -> None:
        super().__init__(board, stop, most=2 * threads + waiting, busy=_BUSY, statuses=_STATUS)
        self._holding, self._patience_s = holding, patience_s
        self._config, self._body_s = config, body_s
        self._quick = ThreadPoolExecutor(threads, thread_name_prefix="search")
        self._reading = ThreadPoolExecutor(threads, thread_name_prefix="search-reading")

    def app(self) -> Starlette:
        """Make the application."""
        routes = [
            Route("/search", self._answering(self._post_search), methods=["POST"]),
            Route("/cases", self._answering(self._get_case), methods=["GET"]),
            Route("/state", self._answering(self._get_state), methods=["GET"]),
        ]
        return Starlette(
            routes=[*routes, *health_app(self._board, self._config).routes],
            exception_handlers={HTTPException: wrong_method("POST to /search; GET the other pages.")},
        )

    def close(self) -> None:
        """Start no further work."""
        for pool in (self._quick, self._reading):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _post_search(self, request: Request) -> Response:
        question = read_question(await read_body(request, MOST_BYTES, self._body_s, _SMALLER))
        began_at, outcome = time.monotonic(), "failed"
        try:
            answer = await self._answer(question)
            outcome = "found" if answer.found else "none"
        except HistgenError as error:
            outcome = _outcome_of(error)
            raise
        finally:
            metrics.SEARCHES.labels(question.task, outcome).inc()
            metrics.SEARCH_SECONDS.labels(question.task).observe(time.monotonic() - began_at)
        metrics.SEARCH_HITS.labels(question.task).inc(len(answer.found))
        return json_reply(answer_json(answer, behind_s=self._holding.behind_s))

    async def _answer(self, question: Question) -> Answer:
        check(question)
        searcher = self._holding.searcher
        reads = await self._in_time(self._quick, partial(searcher.reads_store, question))
        pool = self._reading if reads else self._quick
        return await self._in_time(pool, partial(searcher.answer, question))

    async def _get_case(self, request: Request) -> Response:
        slide_id = read_slide(request.query_params.get("slide"))
        entry = await self._in_time(self._quick, partial(self._holding.searcher.case, slide_id))
        return json_reply(entry_json(entry))

    async def _get_state(self, _: Request) -> Response:
        return json_reply(state_json(self._holding.state, behind_s=self._holding.behind_s))

    async def _in_time(self, pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._in_pool(pool, call)
        except TimeoutError:
            raise _SLOW from None


def _outcome_of(error: HistgenError) -> str:
    if isinstance(error, InvalidInputError):
        return "refused"
    return "failed" if isinstance(error, FatalError) else "unavailable"


_SMALLER = "Send a slide's id, or a text of a few sentences."
_BUSY = TransientError(
    "search-busy",
    "The search service is busy or about to stop.",
    hint="Search again in a few seconds.",
)
_SLOW = TransientError(
    "search-slow",
    "The search took too long and was given up.",
    hint="Search again in a few seconds; the service's log and /readyz say what does not answer.",
)
