"""The services' HTTP interface: requests to the gateway, health checks, and what every worker is doing.

A token is sent only to the server it is meant for: redirections are not followed, a certificate must be good
for the server's name, and on this machine the listener must belong to our account, because any account may
take the port of a server that is restarting.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from histgen_lib import sockets
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.runtime.web.authorities import trusting
from histgen_lib.secret import read_secret

CA_FILE = "HISTGEN_CA_FILE"
"""The variable that names a PEM file of trusted authorities, for clients and services."""

_QUICK_S, _SUBMIT_S = 2.0, 1800.0
"""Timeouts of a status request, and of a submission, for which the gateway may have to read a whole slide."""


@dataclass(frozen=True)
class InFlight:
    """The job a worker is running; `done` of `total` steps of `stage` are finished."""

    slide_id: str
    event_id: str
    attempt: int
    stage: str
    done: int
    total: int
    seconds: float


@dataclass(frozen=True)
class WorkerState:
    """One service process. `missing`: what it needs and does not have, with an error code.

    `answers`: whether it answers. `set_aside`: how many slides wait to be retried while others pass them, by
    error code.
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
        """Whether it could run a job now."""
        return self.answers and not self.missing and self.phase not in ("starting", "stopping")


@dataclass(frozen=True)
class RunningService:
    """A service process that announced itself: where it listens, and the file with its token."""

    name: str
    pid: int
    url: str
    token_file: Path


def running_services(run_dir: Path) -> list[RunningService]:
    """Return the services that announced themselves in `run_dir`, except processes that were killed."""
    announced = [one for path in sorted(run_dir.glob("*.json")) if (one := _announced(path))]
    return [one for one in announced if _runs(one.pid)]


def worker_states(run_dir: Path) -> list[WorkerState]:
    """Ask every running service that announced itself in `run_dir` for its state.

    Each is sent the token that its announcement names. A service that does not answer is listed with
    `answers` false.
    """
    running = running_services(run_dir)
    try:
        with ThreadPoolExecutor(max(1, len(running))) as pool:
            return list(pool.map(_state_of, running))
    except RuntimeError:  # the system cannot start another thread now
        return [WorkerState(one.name, one.pid, one.url) for one in running]


def settings_of(service: RunningService) -> dict[str, Any]:
    """Ask a service of this machine for its settings, with its own token. Raises as `settings_in_force`."""
    token = read_secret(service.token_file)
    return settings_in_force(service.url, token, ca_file=_own_authorities())


def settings_in_force(url: str, token: str | None, *, ca_file: Path | None = None) -> dict[str, Any]:
    """Ask a service which settings are in force, each as {"value", "from"}, with secrets masked.

    Raises as `post_json`; FatalError("config-untold") if what listens there does not tell.
    """
    page = f"{url.rstrip('/')}/config"
    status, answer = _asked("GET", page, None, token, timeout_s=_QUICK_S, ca_file=ca_file, who="service")
    try:
        values = json.loads(answer)
        if status < 300:
            return {str(name): dict(setting) for name, setting in values.items()}
        code, message, hint = (str(values["error"][key]) for key in ("code", "message", "hint"))
    except (ValueError, TypeError, KeyError, AttributeError):
        code, message, hint = "", "", ""
    if code and status != 404:
        raise _error_class(status)(code, message, hint=hint)
    raise FatalError(
        "config-untold",
        f"The server at {url} does not tell its settings (HTTP {status}).",
        hint="Check the URL. Services of earlier versions have no such page: look at their environment.",
    )


def get_json(url: str, token: str, *, ca_file: Path | None = None) -> Any:
    """GET a quick answer and parse it. Raises OSError and ValueError. `ca_file`: see `post_json`."""
    status, body = _request("GET", url, None, token, timeout_s=_QUICK_S, ca_file=ca_file)
    if status >= 500:
        raise OSError(status)
    return json.loads(body)


def is_alive(url: str) -> bool:
    """Return whether a service on this machine is alive, by its /healthz.

    It is not if it answers 503, or nothing in time. Any other answer is a sign of life: it may have too many
    connections, for example. It is not its fault if HISTGEN_CA_FILE cannot be used.
    """
    try:
        return _get_status(f"{url}/healthz") != 503
    except (TimeoutError, ConnectionRefusedError):
        return False
    except (OSError, FatalError):
        return True


def _get_status(url: str) -> int:
    return _request("GET", url, None, None, timeout_s=_QUICK_S, ca_file=_own_authorities())[0]


def post_json(
    url: str,
    body: Mapping[str, object],
    token: str | None,
    *,
    ca_file: Path | None = None,
    who: str = "gateway",
) -> dict[str, Any]:
    """POST to the gateway, with its `token` if we have it, and return its answer.

    `ca_file`: PEM file of the authorities trusted for its certificate; the system's if None. `who`: what
    errors call the service, if it is another one. Raises, with the service's own code, InvalidInputError if
    it refuses, TransientError if it cannot answer now, and FatalError if the token is wrong;
    TransientError("gateway-unreachable"); FatalError: "gateway-untrusted" for its certificate,
    "authorities-unusable", "gateway-answer" if the server is none of ours.
    """
    content = json.dumps(body).encode()
    status, answer = _asked("POST", url, content, token, timeout_s=_SUBMIT_S, ca_file=ca_file, who=who)
    try:
        values = json.loads(answer)
        if status < 300:
            return dict(values)
        code, message, hint = (str(values["error"][key]) for key in ("code", "message", "hint"))
    except (ValueError, TypeError, KeyError, AttributeError):
        if status >= 500:  # it is shutting down, or a proxy answers for it
            raise _unreachable(url, f"HTTP {status}", who) from None
        raise FatalError(
            "gateway-answer",
            f"The server at {url} is not a histgen {who}.",
            hint="Check the URL that the command was given, and HISTGEN_GATEWAY or HISTGEN_SEARCH.",
        ) from None
    raise _error_class(status)(code, message, hint=hint)


def refuse_stranger(address: str, port: int) -> None:
    """Raise OSError if the listener there on this machine belongs neither to our account nor to root."""
    owner = next(sockets.listeners(address, port), None)
    if owner not in {None, 0, os.geteuid()}:
        raise OSError(errno.EPERM, "another account of this machine listens there")


def _error_class(status: int) -> type[HistgenError]:
    if status == 401:
        return FatalError
    return TransientError if status >= 500 or status == 429 else InvalidInputError


def _unreachable(url: str, why: str, who: str = "gateway") -> TransientError:
    return TransientError(
        "gateway-unreachable",
        f"The {who} at {url} does not answer: {why}.",
        hint="Check that it is running; histgen status shows the stack on this machine.",
    )


def _asked(
    method: str,
    url: str,
    body: bytes | None,
    token: str | None,
    *,
    timeout_s: float,
    ca_file: Path | None,
    who: str = "gateway",
) -> tuple[int, bytes]:
    """Send one request as `_request` does; say what is wrong if there is no answer, as `post_json` does."""
    try:
        return _request(method, url, body, token, timeout_s=timeout_s, ca_file=ca_file)
    except ssl.SSLCertVerificationError as error:
        raise FatalError(
            "gateway-untrusted",
            f"The certificate of {url} cannot be trusted: {error.verify_message}.",
            hint="Name its authority's certificates in HISTGEN_CA_FILE, and the gateway as its own does.",
        ) from error
    except OSError as error:
        raise _unreachable(url, f"{error.strerror or error or type(error).__name__}", who) from error


def _request(
    method: str, url: str, body: bytes | None, token: str | None, *, timeout_s: float, ca_file: Path | None
) -> tuple[int, bytes]:
    """Send one request; return status and body. Raises OSError, FatalError("authorities-unusable")."""
    try:
        connection = _connection(url, timeout_s, ca_file)
    except ValueError as error:
        raise OSError(str(error)) from error
    try:
        headers = {"content-type": "application/json"} if body is not None else {}
        headers |= {"authorization": f"Bearer {token}"} if token else {}
        connection.connect()
        if token:
            refuse_stranger(*connection.sock.getpeername()[:2])
        connection.request(method, urlsplit(url).path or "/", body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise OSError(type(error).__name__) from error
    finally:
        connection.close()


def _connection(url: str, timeout_s: float, ca_file: Path | None) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme != "https":
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    context = trusting(ca_file)
    return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout_s, context=context)


def _own_authorities() -> Path | None:
    """Return who is trusted for the services of this machine."""
    path = os.environ.get(CA_FILE)
    return Path(path) if path else None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another account's
    return True


def _announced(path: Path) -> RunningService | None:
    try:
        values = json.loads(path.read_bytes())
        name, url = str(values["name"]), str(values["url"])
        return RunningService(name, int(values["pid"]), url, Path(values["token_file"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the service has just left


def _state_of(worker: RunningService) -> WorkerState:
    try:
        token = read_secret(worker.token_file)
        values = get_json(f"{worker.url}/status", token, ca_file=_own_authorities())
        return WorkerState(
            worker.name,
            worker.pid,
            worker.url,
            answers=True,
            phase=str(values["phase"]),
            missing={str(name): str(code) for name, code in values["missing"].items()},
            in_flight=_in_flight(values["in_flight"]),
            jobs_done=int(values["jobs_done"]),
            set_aside=_set_aside(values),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, FatalError):
        return WorkerState(worker.name, worker.pid, worker.url)


def _set_aside(values: Mapping[str, Any]) -> dict[str, int]:
    codes = values["set_aside"]["codes"] if "set_aside" in values else {}  # the gateway sends none
    return {str(code): int(count) for code, count in codes.items()}


def _in_flight(values: Any) -> InFlight | None:
    if not values:
        return None
    return InFlight(
        slide_id=str(values["slide_id"]),
        event_id=str(values["event_id"]),
        attempt=int(values["attempt"]),
        stage=str(values["stage"]),
        done=int(values["done"]),
        total=int(values["total"]),
        seconds=float(values["seconds"]),
    )
