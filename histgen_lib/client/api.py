"""The HTTP interface of the services: asking for their state, and handing slides to the gateway.

A token is sent only to the server it is meant for: redirections are not followed, and on this machine the
listener must belong to our account, because any account may take the port of a server that is restarting.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from histgen_lib import sockets
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.secret import read_secret

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


@dataclass(frozen=True)
class InFlight:
    """The job a worker has in hand; `done` of `total` steps of `stage` are finished."""

    slide_id: str
    event_id: str
    attempt: int
    stage: str
    done: int
    total: int
    seconds: float


@dataclass(frozen=True)
class WorkerState:
    """One service process. `answers`: it does; `missing`: what it needs and does not have, with a code.

    `set_aside`: how many slides wait to be tried again while others pass them, by code.
    """

    name: str
    pid: int
    url: str
    answers: bool = False
    phase: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)
    in_flight: InFlight | None = None
    jobs_done: int = 0
    set_aside: Mapping[str, int] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether it could do a job now."""
        return self.answers and not self.missing and self.phase not in ("starting", "stopping")


def look(run_dir: Path) -> list[WorkerState]:
    """Ask every service that runs and announced itself in `run_dir`; who does not answer is told as such.

    Each is shown the token that it said it wants. What a killed service had announced is passed over.
    """
    if not run_dir.is_dir():
        return []
    told = [one for path in sorted(run_dir.glob("*.json")) if (one := _announced(path))]
    found = [(worker, token_file) for worker, token_file in told if _runs(worker.pid)]
    try:
        with ThreadPoolExecutor(max(1, len(found))) as askers:
            return list(askers.map(lambda one: _status_of(*one), found))
    except RuntimeError:  # the system has no thread to spare now
        return [worker for worker, _ in found]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another account's
    return True


def _announced(path: Path) -> tuple[WorkerState, Path] | None:
    try:
        told = json.loads(path.read_bytes())
        return WorkerState(str(told["name"]), int(told["pid"]), str(told["url"])), Path(told["token_file"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it left in this moment


def _status_of(worker: WorkerState, token_file: Path) -> WorkerState:
    try:
        told = get_json(f"{worker.url}/status", read_secret(token_file))
        return WorkerState(
            worker.name,
            worker.pid,
            worker.url,
            answers=True,
            phase=str(told["phase"]),
            missing={str(name): str(code) for name, code in told["missing"].items()},
            in_flight=_in_flight(told["in_flight"]),
            jobs_done=int(told["jobs_done"]),
            set_aside=_set_aside(told),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, FatalError):
        return worker


def _set_aside(told: Mapping[str, Any]) -> dict[str, int]:
    codes = told["set_aside"]["codes"] if "set_aside" in told else {}  # the gateway has none
    return {str(code): int(count) for code, count in codes.items()}


def _in_flight(told: Any) -> InFlight | None:
    if not told:
        return None
    return InFlight(
        slide_id=str(told["slide_id"]),
        event_id=str(told["event_id"]),
        attempt=int(told["attempt"]),
        stage=str(told["stage"]),
        done=int(told["done"]),
        total=int(told["total"]),
        seconds=float(told["seconds"]),
    )
