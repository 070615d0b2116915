"""The gateway's HTTP API, beside the pages that every service has.

POST /slides, /s3-events, /replay, /signatures and /withdrawals.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from histgen_lib import sockets
from histgen_lib.access.places import FilePlace
from histgen_lib.catalogue.audit import account
from histgen_lib.catalogue.sign_off import SignOff
from histgen_lib.errors import TransientError
from histgen_lib.runtime.board import WebBoard
from histgen_lib.runtime.stopping import Stop
from histgen_lib.runtime.web.api import JsonApi, json_reply, wrong_method
from histgen_lib.runtime.web.bodies import read_body
from histgen_lib.runtime.web.door import caller_of
from histgen_lib.runtime.web.server import health_app
from services.gateway import notifications
from services.gateway.bucket_intake import Outcome, take_in
from services.gateway.intake import Intake
from services.gateway.replaying import Replaying, read_selection
from services.gateway.sign_off import (
    MOST_BYTES,
    read_signature,
    read_withdrawal,
    signature_json,
    withdrawal_json,
)
from services.gateway.submission import Receipt, read_submission

MOST_SLIDE_BYTES, MOST_EVENT_BYTES = 64 << 10, 1 << 20
_STATUS = {
    "notification-unreadable": 400,
    "uri-outside-roots": 403,
    "slide-missing": 404,
    "slide-changed": 409,
    "slide-incomplete": 409,
    "slide-open-timeout": 504,
    "case-unknown": 404,
    "case-undrafted": 409,
    "case-withdrawn": 409,
    "slide-of-case": 409,
    "signed-text-too-long": 413,
}


class HttpApi(JsonApi):
    """Answers requests that the door (`histgen_lib.runtime.web.door`) has let through.

    `replaying`, `sign_off`: do what POST /replay, and what /signatures and /withdrawals ask for. `config`:
    see `health_app`. `threads`: how many objects, and how many files, are read at a time, so that a large one
    does not block the others; a file that cannot be opened occupies none. `most_waiting`: how many requests
    may wait; further ones get 503. `body_s`: seconds for a request's body.
    """

    def __init__(
        self,
        intake: Intake,
        board: WebBoard,
        stop: Stop,
        replaying: Replaying,
        sign_off: SignOff,
        *,
        config: Mapping[str, Any] | None = None,
        body_s: float = 30.0,
        threads: int = 4,
        most_waiting: int = 64,
    ) -> None:
        super().__init__(board, stop, most=threads + most_waiting, busy=_BUSY, statuses=_STATUS)
        self._intake, self._replaying, self._sign_off = intake, replaying, sign_off
        self._config, self._body_s = config, body_s
        self._objects = ThreadPoolExecutor(threads, thread_name_prefix="gateway-objects")
        self._files = ThreadPoolExecutor(self._most, thread_name_prefix="gateway-files")
        self._slots = threading.Semaphore(threads)

    def app(self) -> Starlette:
        """Make the application."""
        pages = {
            "/slides": self._post_slide,
            "/s3-events": self._post_event,
            "/replay": self._post_replay,
            "/signatures": self._post_signature,
            "/withdrawals": self._post_withdrawal,
        }
        routes = [Route(path, self._answering(page), methods=["POST"]) for path, page in pages.items()]
        return Starlette(
            routes=[*routes, *health_app(self._board, self._config).routes],
            exception_handlers={HTTPException: wrong_method(_METHODS)},
        )

    def close(self) -> None:
        """Start no further work."""
        for pool in (self._objects, self._files):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _post_slide(self, request: Request) -> Response:
        body = await read_body(request, MOST_SLIDE_BYTES, self._body_s, _SMALLER)
        submission = replace(read_submission(body), by=_caller_of(request))
        pool = self._files if isinstance(submission.place, FilePlace) else self._objects
        receipt = await self._in_pool(pool, partial(self._intake.submit, submission, self._slots))
        return _given_up(receipt) if receipt.letter else json_reply(_receipt_json(receipt), 202)

    async def _post_event(self, request: Request) -> Response:
        body = await read_body(request, MOST_EVENT_BYTES, self._body_s, _SMALLER)
        notifications.read(body)
        outcomes = await self._in_pool(self._objects, partial(take_in, self._intake, body, "http/s3-events"))
        return json_reply({"slides": [_outcome_json(outcome) for outcome in outcomes]}, 202)

    async def _post_replay(self, request: Request) -> Response:
        wanted = read_selection(await read_body(request, MOST_SLIDE_BYTES, self._body_s, _SMALLER))
        call = partial(self._replaying.run, wanted, _caller_of(request))
        return json_reply(await self._in_pool(self._files, call), 200)

    async def _post_signature(self, request: Request) -> Response:
        wish = read_signature(await self._long_body(request), _caller_of(request))
        signature = await self._in_pool(self._files, partial(self._sign_off.sign, wish))
        return json_reply(signature_json(signature), 200)

    async def _post_withdrawal(self, request: Request) -> Response:
        owner, reason = read_withdrawal(await self._long_body(request))
        call = partial(self._sign_off.withdraw, owner, by=_caller_of(request), reason=reason)
        return json_reply(withdrawal_json(await self._in_pool(self._files, call)), 200)

    async def _long_body(self, request: Request) -> bytes:
        return await read_body(request, MOST_BYTES, self._body_s, "Sign the report alone.")


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


def _receipt_json(receipt: Receipt) -> dict[str, object]:
    return {"slide_id": receipt.slide_id, "event_id": receipt.event_id, "status": receipt.status}


def _outcome_json(outcome: Outcome) -> dict[str, object]:
    receipt = _receipt_json(outcome.receipt) if outcome.receipt else {}
    return {"uri": outcome.uri, **receipt, **({"error": outcome.error.to_json()} if outcome.error else {})}


def _given_up(receipt: Receipt) -> Response:
    """Answer with the dead letter of a slide that was given up."""
    assert receipt.letter is not None
    letter = receipt.letter
    error = {"code": letter.code, "message": letter.message, "hint": receipt.hint}
    return json_reply({"error": error, **_receipt_json(receipt), "dead_letter": letter.key}, 409)


_BUSY = TransientError(
    "gateway-busy",
    "The gateway is busy or about to stop.",
    hint="Send the request again in a few seconds.",
)
_SMALLER = "Send the slide's URI, not the slide; split a long notification."
_METHODS = "POST to /slides, /s3-events, /replay, /signatures and /withdrawals; GET the other pages."
