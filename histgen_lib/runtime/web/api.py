"""What services with pages of their own have in common: bounded work in threads, answers, refusals."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.runtime.board import WebBoard
from histgen_lib.runtime.stopping import Stop
from histgen_lib.telemetry import get_logger

T = TypeVar("T")
Page = Callable[[Request], Awaitable[Response]]

RETRY_AFTER_S = 5
STATUS: Mapping[str, int] = {
    "request-unreadable": 400,
    "request-origin": 403,
    "request-too-large": 413,
}
"""The HTTP status of refusals by code; 422 for all others."""

_log = get_logger()


class JsonApi:
    """Answers requests that the door (`histgen_lib.runtime.web.door`) has let through.

    `most`: how many requests may be in hand; further ones get 503 with `busy`. `statuses`: of refusals,
    beside `STATUS`.
    """

    def __init__(
        self, board: WebBoard, stop: Stop, *, most: int, busy: TransientError, statuses: Mapping[str, int]
    ) -> None:
        self._board, self._stop = board, stop
        self._most, self._busy, self._statuses = most, busy, {**STATUS, **statuses}
        self._counting = threading.Lock()

    async def _in_pool(self, pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        """Run a call in a pool's thread. Raises `busy` if too many are in hand, or the service stops."""
        with self._counting:
            if self._board.requests >= self._most or self._stop.requested:
                raise self._busy
            self._board.hold(self._board.requests + 1)
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, call)
        finally:
            with self._counting:
                self._board.hold(self._board.requests - 1)

    def _answering(self, page: Page) -> Page:
        """Return the page, with every error as an answer."""

        async def answer(request: Request) -> Response:
            try:
                _refuse_web_page(request)
                return await page(request)
            except HistgenError as error:
                return self._refused(error)
            except ClientDisconnect:
                return Response(status_code=400)
            except Exception as error:
                _log.error("A request failed.", exc_info=error)
                return refusal(_INTERNAL, 500)

        return answer

    def _refused(self, error: HistgenError) -> Response:
        if isinstance(error, FatalError):
            self._stop.fail(error)
        if not isinstance(error, InvalidInputError):
            _log.warning("A request could not be served.", exc_info=error)
            return refusal(error, 503, {"retry-after": str(RETRY_AFTER_S)})
        return refusal(error, self._statuses.get(error.code, 422))


def json_reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON."""
    return Response(json.dumps(value), status, headers, media_type="application/json")


def refusal(error: HistgenError, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Answer and close the connection: the request's body may not have been read to its end."""
    return json_reply({"error": error.to_json()}, status, {"connection": "close", **(headers or {})})


def wrong_method(hint: str) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return what answers a request by a method that its page does not support."""
    error = InvalidInputError("request-method", "This page does not support that method.", hint=hint)

    async def answer(_: Request, raised: Exception) -> Response:
        assert isinstance(raised, HTTPException)
        return refusal(error, raised.status_code)

    return answer


def _refuse_web_page(request: Request) -> None:
    """Refuse requests from web pages open in a browser on this machine: they could ask for anything."""
    if "origin" in request.headers:
        raise _ORIGIN


_ORIGIN = InvalidInputError(
    "request-origin",
    "The request comes from a web page.",
    hint="Send it from a program.",
)
_INTERNAL = HistgenError(
    "internal-error",
    "The service failed unexpectedly.",
    hint="Please report this with the service's log.",
)
