"""Asking a service over HTTP: JSON there, JSON back, and its refusals as errors of ours.

A token goes nowhere but to the server that was meant: redirections are not followed, and on this machine the
listener has to be of our account, since any other may take a port whose server is just being restarted.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
from typing import Any
from urllib.parse import urlsplit

from histgen_lib import sockets
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError

_QUICK_S, _PATIENT_S = 2.0, 1800.0
"""For what a service knows by heart; for a slide that the gateway reads from start to end first."""


def get_json(url: str, token: str) -> Any:
    """GET what a service knows by heart. Raises OSError and ValueError."""
    status, answer = _ask("GET", url, None, token, _QUICK_S)
    if status >= 500:
        raise OSError(status)
    return json.loads(answer)


def is_alive(url: str) -> bool:
    """Ask a service on this machine whether its loops turn.

    False if it says no, or nothing in time. Any other word is a sign of life: it has too many guests, say.
    """
    try:
        return _ask("GET", f"{url}/healthz", None, None, _QUICK_S)[0] != 503
    except (TimeoutError, ConnectionRefusedError):
        return False
    except OSError:
        return True


def post_json(url: str, body: dict[str, Any], token: str | None) -> dict[str, Any]:
    """POST to the gateway, with its `token` if that is known; return its answer.

    Raises InvalidInputError with the gateway's own code where it refuses, TransientError with it where it
    cannot answer now, FatalError with it where it wants another token; TransientError("gateway-unreachable"),
    FatalError("gateway-answer") for another server.
    """
    try:
        status, answer = _ask("POST", url, json.dumps(body).encode(), token, _PATIENT_S)
    except OSError as error:
        raise _unreachable(url, f"{error.strerror or error or type(error).__name__}") from error
    try:
        told = json.loads(answer)
        if status < 300:
            return dict(told)
        texts = [str(told["error"][key]) for key in ("code", "message", "hint")]
    except (ValueError, TypeError, KeyError, AttributeError):
        if status >= 500:  # it is about to end, or a proxy stands before it
            raise _unreachable(url, f"HTTP {status}") from None
        raise FatalError(
            "gateway-answer",
            f"What answers at {url} is no gateway of histgen.",
            hint="Check --gateway and HISTGEN_GATEWAY.",
        ) from None
    raise _kind(status)(texts[0], texts[1], hint=texts[2])


def _kind(status: int) -> type[HistgenError]:
    if status == 401:
        return FatalError
    return TransientError if status >= 500 else InvalidInputError


def _unreachable(url: str, why: str) -> TransientError:
    return TransientError(
        "gateway-unreachable",
        f"The gateway at {url} does not answer: {why}.",
        hint="Look whether it runs; histgen status tells of the stack on this machine.",
    )


def _ask(method: str, url: str, body: bytes | None, token: str | None, timeout_s: float) -> tuple[int, bytes]:
    """Ask once. Raises OSError."""
    try:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = connect(parts.hostname or "", parts.port, timeout=timeout_s)
    except ValueError as error:
        raise OSError(str(error)) from error
    try:
        headers = {"content-type": "application/json"} if body is not None else {}
        headers |= {"authorization": f"Bearer {token}"} if token else {}
        connection.connect()
        if token:
            refuse_stranger(*connection.sock.getpeername()[:2])
        connection.request(method, parts.path or "/", body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise OSError(type(error).__name__) from error
    finally:
        connection.close()


def refuse_stranger(address: str, port: int) -> None:
    """Raise OSError if another account than ours, or root, listens there on this machine."""
    owner = next(sockets.listeners(address, port), None)
    if owner not in {None, 0, os.geteuid()}:
        raise OSError(errno.EPERM, "another account of this machine listens there")
