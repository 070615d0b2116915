"""The gateway's HTTP door: POST /slides and POST /s3-events, beside the pages that every worker serves."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from histgen_lib.access.places import FilePlace
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.runtime.health import health_app
from histgen_lib.runtime.lock import CHALLENGE, UNAUTHORISED, Lock
from histgen_lib.runtime.stopping import Stop
from histgen_lib.telemetry import get_logger
from services.gateway import noticing, notifications
from services.gateway.board import GatewayBoard
from services.gateway.bodies import read_submission, unreadable
from services.gateway.callers import caller
from services.gateway.intake import Intake
from services.gateway.submission import Receipt

T = TypeVar("T")
Page = Callable[[Request], Awaitable[Response]]

MOST_SLIDE_BYTES, MOST_EVENT_BYTES = 64 << 10, 1 << 20
RETRY_AFTER_S = 5
_STATUS = {
    "request-unreadable": 400,
    "token-missing": UNAUTHORISED,
    "token-wrong": UNAUTHORISED,
    "request-origin": 403,
    "request-too-large": 413,
    "notification-unreadable": 400,
    "uri-outside-roots": 403,
    "slide-missing": 404,
    "slide-changed": 409,
    "slide-incomplete": 409,
    "slide-open-timeout": 504,
}

_log = get_logger()


class Door:
    """Answers requests of those who have the token of `lock`.

    `threads`: as many objects, and as many files, are read at a time, so that a large one holds up nobody
    else; a file that cannot be opened takes none of them. `most_waiting`: requests that may wait; more are
    told to come again. `body_s`: what a body may take to come.
    """

    def __init__(
        self,
        intake: Intake,
        board: GatewayBoard,
        stop: Stop,
        lock: Lock,
        *,
        body_s: float = 30.0,
        threads: int = 4,
        most_waiting: int = 64,
    ) -> None:
        self._intake, self._board, self._stop = intake, board, stop
        self._lock, self._body_s = lock, body_s
        self._most = threads + most_waiting
        self._objects = ThreadPoolExecutor(threads, thread_name_prefix="gateway-objects")
        self._files = ThreadPoolExecutor(self._most, thread_name_prefix="gateway-files")
        self._slots = threading.Semaphore(threads)
        self._counting = threading.Lock()
        self.failure: FatalError | None = None

    def app(self) -> Starlette:
        """Make the application."""
        doors = {"/slides": self._post_slide, "/s3-events": self._post_event}
        routes = [Route(path, self._answering(page), methods=["POST"]) for path, page in doors.items()]
        return Starlette(
            routes=[*routes, *health_app(self._board, self._lock).routes],
            exception_handlers={HTTPException: _no_such_page},
        )

    def close(self) -> None:
        """Start nothing more."""
        for pool in (self._objects, self._files):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _post_slide(self, request: Request) -> Response:
        body = await _body(request, MOST_SLIDE_BYTES, self._body_s)
        told = replace(read_submission(body), by=_caller(request))
        pool = self._files if isinstance(told.place, FilePlace) else self._objects
        receipt = await self._aside(pool, partial(self._intake.submit, told, self._slots))
        return _refusal_of(receipt) if receipt.letter else _json(_shown(receipt), 202)

    async def _post_event(self, request: Request) -> Response:
        body = await _body(request, MOST_EVENT_BYTES, self._body_s)
        notifications.read(body)
        found = await self._aside(self._objects, partial(noticing.take, self._intake, body, "http/s3-events"))
        return _json({"slides": [_noticed(one) for one in found]}, 202)

    async def _aside(self, pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        with self._counting:
            if self._board.requests >= self._most or self._stop.requested:
                raise _BUSY
            self._board.hold(self._board.requests + 1)
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, call)
        finally:
            with self._counting:
                self._board.hold(self._board.requests - 1)

    def _answering(self, page: Page) -> Page:
        async def answer(request: Request) -> Response:
            try:
                _require_program(request)
                self._lock.check(request.headers.get("authorization"))
                return await page(request)
            except HistgenError as error:
                return self._refusal(error)
            except ClientDisconnect:
                return Response(status_code=400)
            except Exception as error:
                _log.error("A request failed.", exc_info=error)
                return _refusal(_INTERNAL, 500)

        return answer

    def _refusal(self, error: HistgenError) -> Response:
        if isinstance(error, FatalError):
            self.failure = error
            self._stop.request()
        if not isinstance(error, InvalidInputError):
            _log.warning("A request could not be served.", exc_info=error)
            return _refusal(error, 503, {"retry-after": str(RETRY_AFTER_S)})
        status = _STATUS.get(error.code, 422)
        return _refusal(error, status, CHALLENGE if status == UNAUTHORISED else None)


def _caller(request: Request) -> str:
    server = request.scope.get("server")
    return caller(*request.client, server[1]) if request.client and server else "unknown"


def _require_program(request: Request) -> None:
    """Refuse web pages that a browser on this machine has open: they could name slides at will."""
    if "origin" in request.headers:
        raise _ORIGIN


async def _body(request: Request, most: int, most_s: float) -> bytes:
    """Read a body of at most `most` bytes, that comes in `most_s` seconds."""
    stated = request.headers.get("content-length", "0")
    if not stated.isdecimal() or int(stated) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(most_s):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError:
        raise unreadable("it did not come within the time a request may take") from None
    return bytes(body)


def _json(value: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(value), status, headers, media_type="application/json")


def _shown(receipt: Receipt) -> dict[str, str]:
    return {"slide_id": receipt.slide_id, "event_id": receipt.event_id, "status": receipt.status}


def _noticed(one: noticing.Noticed) -> dict[str, Any]:
    shown = _shown(one.receipt) if one.receipt else {}
    return {"uri": one.uri, **shown, **({"error": one.error.to_json()} if one.error else {})}


def _refusal(error: HistgenError, status: int, headers: dict[str, str] | None = None) -> Response:
    """Answer, and hang up: a body that was not read to its end may have none."""
    return _json({"error": error.to_json()}, status, {"connection": "close", **(headers or {})})


def _refusal_of(receipt: Receipt) -> Response:
    """Answer with the letter of a slide that was given up."""
    assert receipt.letter is not None
    letter = receipt.letter
    told = {"code": letter.code, "message": letter.message, "hint": receipt.hint}
    return _json({"error": told, **_shown(receipt), "dead_letter": letter.key}, 409)


async def _no_such_page(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refusal(_METHOD if error.status_code == 405 else _PATH, error.status_code)


def _too_large(most: int) -> InvalidInputError:
    return InvalidInputError(
        "request-too-large",
        f"The request is longer than {most} bytes.",
        hint="Send the slide's URI, not the slide; split a long notification.",
    )


_BUSY = TransientError(
    "gateway-busy",
    "The gateway has its hands full, or is about to stop.",
    hint="Send it again in a few seconds.",
)
_ORIGIN = InvalidInputError(
    "request-origin",
    "The request comes from a web page.",
    hint="Send it from a program.",
)
_PATH = InvalidInputError(
    "request-path",
    "There is no such page.",
    hint="Use /slides, /s3-events, /status, /readyz, /healthz, /metrics.",
)
_METHOD = InvalidInputError(
    "request-method",
    "This page does not take that method.",
    hint="POST to /slides and /s3-events; GET the rest.",
)
_INTERNAL = HistgenError(
    "internal-error",
    "The gateway failed in a way that nobody had foreseen.",
    hint="Please report it, with its log.",
)
