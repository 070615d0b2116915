"""The gateway's HTTP API: POST /slides, /s3-events and /replay, beside the pages that every service has."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from histgen_lib import sockets
from histgen_lib.access.places import FilePlace
from histgen_lib.catalogue.audit import account
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.runtime.board import WebBoard
from histgen_lib.runtime.stopping import Stop
from histgen_lib.runtime.web.door import caller_of
from histgen_lib.runtime.web.server import health_app
from histgen_lib.telemetry import get_logger
from services.gateway import notifications
from services.gateway.bucket_intake import Outcome, take_in
from services.gateway.intake import Intake
from services.gateway.replaying import Replaying, read_selection
from services.gateway.submission import Receipt, read_submission, unreadable_request

T = TypeVar("T")
Page = Callable[[Request], Awaitable[Response]]

MOST_SLIDE_BYTES, MOST_EVENT_BYTES = 64 << 10, 1 << 20
RETRY_AFTER_S = 5
_STATUS = {
    "request-unreadable": 400,
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


class HttpApi:
    """Answers requests that the door (`histgen_lib.runtime.web.door`) has let through.

    `replaying`: does what POST /replay asks for. `config`: see `health_app`. `threads`: how many objects, and
    how many files, are read at a time, so that a large one does not block the others; a file that cannot be
    opened occupies none. `most_waiting`: how many requests may wait; further ones get 503. `body_s`: seconds
    for a request's body.
    """

    def __init__(
        self,
        intake: Intake,
        board: WebBoard,
        stop: Stop,
        replaying: Replaying,
        *,
        config: Mapping[str, Any] | None = None,
        body_s: float = 30.0,
        threads: int = 4,
        most_waiting: int = 64,
    ) -> None:
        self._intake, self._board, self._stop = intake, board, stop
        self._replaying, self._config, self._body_s = replaying, config, body_s
        self._most = threads + most_waiting
        self._objects = ThreadPoolExecutor(threads, thread_name_prefix="gateway-objects")
        self._files = ThreadPoolExecutor(self._most, thread_name_prefix="gateway-files")
        self._slots = threading.Semaphore(threads)
        self._counting = threading.Lock()

    def app(self) -> Starlette:
        """Make the application."""
        pages = {"/slides": self._post_slide, "/s3-events": self._post_event, "/replay": self._post_replay}
        routes = [Route(path, self._answering(page), methods=["POST"]) for path, page in pages.items()]
        return Starlette(
            routes=[*routes, *health_app(self._board, self._config).routes],
            exception_handlers={HTTPException: _wrong_method},
        )

    def close(self) -> None:
        """Start no further work."""
        for pool in (self._objects, self._files):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _post_slide(self, request: Request) -> Response:
        body = await _body(request, MOST_SLIDE_BYTES, self._body_s)
        submission = replace(read_submission(body), by=_caller_of(request))
        pool = self._files if isinstance(submission.place, FilePlace) else self._objects
        receipt = await self._in_pool(pool, partial(self._intake.submit, submission, self._slots))
        return _given_up(receipt) if receipt.letter else _json(_receipt_json(receipt), 202)

    async def _post_event(self, request: Request) -> Response:
        body = await _body(request, MOST_EVENT_BYTES, self._body_s)
        notifications.read(body)
        outcomes = await self._in_pool(self._objects, partial(take_in, self._intake, body, "http/s3-events"))
        return _json({"slides": [_outcome_json(outcome) for outcome in outcomes]}, 202)

    async def _post_replay(self, request: Request) -> Response:
        wanted = read_selection(await _body(request, MOST_SLIDE_BYTES, self._body_s))
        call = partial(self._replaying.run, wanted, _caller_of(request))
        return _json(await self._in_pool(self._files, call), 200)

    async def _in_pool(self, pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
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
                _refuse_web_page(request)
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
            self._stop.fail(error)
        if not isinstance(error, InvalidInputError):
            _log.warning("A request could not be served.", exc_info=error)
            return _refusal(error, 503, {"retry-after": str(RETRY_AFTER_S)})
        return _refusal(error, _STATUS.get(error.code, 422))


def caller(host: str, port: int, to_port: int) -> str:
    """Name who is at the other end of a connection, for the audit log.

    The service's own token names nobody. For a process on this machine the kernel knows the account;
    otherwise the address is returned.
    """
    uid = next(sockets.callers(host, port, to_port), None)
    if uid is not None:
        return account(uid)
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return "unknown"


def _caller_of(request: Request) -> str:
    """Name who sent a request: by the token if it has a name, else by the connection."""
    if (known := caller_of(request.scope)) and known.name:
        return known.name
    server = request.scope.get("server")
    return caller(*request.client, server[1]) if request.client and server else "unknown"


def _refuse_web_page(request: Request) -> None:
    """Refuse requests from web pages open in a browser on this machine: they could submit any slide."""
    if "origin" in request.headers:
        raise _ORIGIN


async def _body(request: Request, most_bytes: int, most_s: float) -> bytes:
    """Read a body of at most `most_bytes` that arrives within `most_s` seconds."""
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most_bytes:
        raise _too_large(most_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(most_s):
            async for piece in request.stream():
                body += piece
                if len(body) > most_bytes:
                    raise _too_large(most_bytes)
    except TimeoutError:
        raise unreadable_request("its body did not arrive in time") from None
    return bytes(body)


def _json(value: object, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json.dumps(value), status, headers, media_type="application/json")


def _receipt_json(receipt: Receipt) -> dict[str, object]:
    return {"slide_id": receipt.slide_id, "event_id": receipt.event_id, "status": receipt.status}


def _outcome_json(outcome: Outcome) -> dict[str, object]:
    receipt = _receipt_json(outcome.receipt) if outcome.receipt else {}
    return {"uri": outcome.uri, **receipt, **({"error": outcome.error.to_json()} if outcome.error else {})}


def _refusal(error: HistgenError, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Answer and close the connection: the request's body may not have been read to its end."""
    return _json({"error": error.to_json()}, status, {"connection": "close", **(headers or {})})


def _given_up(receipt: Receipt) -> Response:
    """Answer with the dead letter of a slide that was given up."""
    assert receipt.letter is not None
    letter = receipt.letter
    error = {"code": letter.code, "message": letter.message, "hint": receipt.hint}
    return _json({"error": error, **_receipt_json(receipt), "dead_letter": letter.key}, 409)


async def _wrong_method(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refusal(_METHOD, error.status_code)


def _too_large(most_bytes: int) -> InvalidInputError:
    return InvalidInputError(
        "request-too-large",
        f"The request is longer than {most_bytes} bytes.",
        hint="Send the slide's URI, not the slide; split a long notification.",
    )


_BUSY = TransientError(
    "gateway-busy",
    "The gateway is busy or about to stop.",
    hint="Send the request again in a few seconds.",
)
_ORIGIN = InvalidInputError(
    "request-origin",
    "The request comes from a web page.",
    hint="Send it from a program.",
)
_METHOD = InvalidInputError(
    "request-method",
    "This page does not support that method.",
    hint="POST to /slides, /s3-events and /replay; GET the other pages.",
)
_INTERNAL = HistgenError(
    "internal-error",
    "The gateway failed unexpectedly.",
    hint="Please report this with the gateway's log.",
)
