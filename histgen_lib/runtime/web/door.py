"""The door of every service: what is open to anybody, and which right each other page requires.

It stands before the whole application and knows every page by name: a page that nobody gave a right to does
not exist, and a service with such a page does not start.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from histgen_lib.errors import HistgenError, InvalidInputError, TransientError
from histgen_lib.runtime.web.address import OPENABLE, PROBES, DoorSettings
from histgen_lib.runtime.web.callers import Caller, Callers, Right
from histgen_lib.runtime.web.rates import Buckets, peer_of
from histgen_lib.telemetry import metrics

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CALLER = "histgen.caller"
"""Under this name the application finds the `Caller` in an ASGI scope."""

RIGHT_FOR: Mapping[str, Right] = {
    "/slides": "submit",
    "/s3-events": "submit",
    **dict.fromkeys(("/replay", "/signatures", "/withdrawals"), "operate"),
    **dict.fromkeys(("/search", "/cases", "/state"), "read"),
    **dict.fromkeys(("/status", "/config", "/metrics", *PROBES), "read"),
}
"""The right that each page requires unless it is open."""

FAILURES = 10
"""Of wrong tokens an address may send a tenth of the requests that a caller may send."""
OTHER = "other"
_STATUSES = (200, 202, 400, 401, 403, 404, 405, 409, 413, 422, 429, 431, 500, 503, 504)
_WHYS = ("requests", "failures")
_BUSY_S = 5


class Door:
    """ASGI middleware before an application. For one thread, the server's.

    `worker`: the service's name in metrics. Raises LookupError for a page without a right.
    """

    def __init__(
        self, app: Starlette, callers: Callers, worker: str, settings: DoorSettings | None = None
    ) -> None:
        settings = settings or DoorSettings()
        self._app, self._callers, self._worker = app, callers, worker
        self._rights = {path: RIGHT_FOR[path] for path in _paths(app)}
        self._open = {path for name in settings.open for path in OPENABLE[name]} & set(self._rights)
        self._requests = Buckets(settings.rate, settings.burst)
        self._failures = Buckets(settings.rate / FAILURES, max(1, settings.burst / FAILURES))
        metrics.show_http(worker, [*self._rights, OTHER], _STATUSES, _WHYS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # policy violation (RFC 6455, 7.4.1)
        if scope["type"] != "http":
            return
        try:
            await self._check(scope)
        except _RefusedError as refused:
            await refused.answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def counted(self, app: ASGIApp) -> ASGIApp:
        """Count the answers of what stands before this door, and of the door."""

        async def count(scope: Scope, receive: Receive, send: Send) -> None:
            route = scope.get("path", "") if scope.get("path") in self._rights else OTHER

            async def sent(message: Message) -> None:
                if message["type"] == "http.response.start":
                    metrics.HTTP_REQUESTS.labels(self._worker, route, str(message["status"])).inc()
                await send(message)

            await app(scope, receive, sent)

        return count

    async def _check(self, scope: Scope) -> None:
        """Raise what is to be answered to a request that may not pass; note who sent one that may."""
        path, peer = scope["path"], f"peer {peer_of(scope['client'][0])}" if scope.get("client") else "peer"
        if path in self._open:
            if path not in PROBES:
                self._take(self._requests, peer, "requests")
            return
        found = await self._caller(scope, peer)
        self._take(self._requests, found.bucket, "requests")
        if path not in self._rights:
            raise _no_such_page(self._rights)
        if self._rights[path] not in found.rights:
            raise _scope_missing(self._rights[path])
        scope[CALLER] = found

    async def _caller(self, scope: Scope, peer: str) -> Caller:
        """Find out who sends a request.

        Only tokens that turn out wrong cost an address anything: others behind the same proxy go on.
        """
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        try:
            return await self._callers.find(sent)
        except TransientError as error:
            raise _RefusedError(error, 503, {"retry-after": str(_BUSY_S)}) from None
        except InvalidInputError as error:
            if error.code != "token-missing":
                self._take(self._failures, peer, "failures")
            raise _RefusedError(error, 401, {"www-authenticate": "Bearer"}) from None

    def _take(self, buckets: Buckets, caller: str, why: str) -> None:
        wait_s = buckets.take(caller)
        if wait_s > 0:
            metrics.HTTP_LIMITED.labels(self._worker, why).inc()
            raise _too_many(wait_s)


def caller_of(scope: Mapping[str, object]) -> Caller | None:
    """Return who sent a request that came through a door."""
    found = scope.get(CALLER)
    return found if isinstance(found, Caller) else None


def _paths(app: Starlette) -> list[str]:
    """Return the pages of an application. Raises LookupError for a part that holds further ones."""
    from starlette.routing import Route

    if strange := [route for route in app.routes if not isinstance(route, Route)]:
        raise LookupError(f"the door does not know the pages of {strange}")
    return [route.path for route in app.routes if isinstance(route, Route)]


class _RefusedError(Exception):
    """What a request that may not pass is answered."""

    def __init__(self, error: HistgenError, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error.code)
        self._error, self._status, self._headers = error, status, headers or {}

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer and close the connection: the request's body was not read."""
        from starlette.responses import Response

        body = json.dumps({"error": self._error.to_json()})
        headers = {"connection": "close", **self._headers}
        await Response(body, self._status, headers, media_type="application/json")(scope, receive, send)


def _scope_missing(right: Right) -> _RefusedError:
    error = InvalidInputError(
        "token-scope",
        f"The token does not have the scope {right}.",
        hint="Have the administrator add it to this token, or use another one.",
    )
    return _RefusedError(
        error, 403, {"www-authenticate": f'Bearer error="insufficient_scope", scope="{right}"'}
    )  # RFC 6750, section 3.1


def _too_many(wait_s: float) -> _RefusedError:
    error = TransientError(
        "request-rate",
        "Too many requests, or wrong tokens, came from this caller.",
        hint="Send them more slowly; HISTGEN_HTTP_RATE and HISTGEN_HTTP_BURST say how many may come.",
    )
    return _RefusedError(error, 429, {"retry-after": str(math.ceil(wait_s))})


def _no_such_page(pages: Iterable[str]) -> _RefusedError:
    return _RefusedError(
        InvalidInputError("request-path", "This page does not exist.", hint=f"Use {', '.join(pages)}."), 404
    )
