"""A small HTTP server beside the work: the pages of every service, and files that say where it listens."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histgen_lib.errors import FatalError
from histgen_lib.files import write_atomic
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.web.address import Address, TlsFiles
from histgen_lib.runtime.web.callers import Callers, Keys, NamedTokens, OwnToken
from histgen_lib.runtime.web.door import Door
from histgen_lib.runtime.web.guard import HEAD_BYTES, Guard, Limits, is_loopback
from histgen_lib.runtime.web.oidc import Issuer
from histgen_lib.secret import own_secret
from histgen_lib.telemetry import exposition, get_logger

if TYPE_CHECKING:
    from starlette.applications import Starlette

_log = get_logger()

CLOSE_S = 2.0
IDLE_S = 5
"""How long a connection may stay open between two requests."""


def health_app(board: Board, config: Mapping[str, Any] | None = None) -> Starlette:
    """Make the pages that every service has; a `Door` stands before them.

    /healthz: 503 once a loop has stood still for 30 s. /readyz: 503, with what is missing, while no work can
    be done or the service is stopping. /metrics: for Prometheus. /status: what is in hand; it names slides.
    /config: the settings in force, as `histgen config show --json` prints them.
    """
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    async def metrics(_: Request) -> Response:
        text, media_type = exposition()
        return Response(text, headers={"content-type": media_type})

    async def healthz(_: Request) -> Response:
        live = board.live()
        return JSONResponse({"live": live}, status_code=200 if live else 503)

    async def readyz(_: Request) -> Response:
        missing = dict(board.missing)
        ready = not missing and not board.stopping
        return JSONResponse({"ready": ready, "missing": missing}, status_code=200 if ready else 503)

    async def status(_: Request) -> Response:
        return JSONResponse(board.status())

    async def settings(_: Request) -> Response:
        return JSONResponse(dict(config or {}))

    pages = {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz, "/status": status}
    return Starlette(routes=[Route(path, page) for path, page in (pages | {"/config": settings}).items()])


@contextmanager
def opened(app: Starlette, worker: str, address: Address) -> Iterator[str]:
    """Serve a service's pages behind its door, and publish where, while the block runs; yield the URL.

    Raises FatalError: "http-port", "tls-certificate", and what reading the tokens raises.
    """
    if not (address.tls or address.tls_elsewhere or is_loopback(address.host)):
        _log.warning(
            "Others can read what is sent here, tokens included: there is no TLS.",
            host=address.host,
            hint="Set HISTGEN_TLS_CERT and HISTGEN_TLS_KEY, or behind a mesh HISTGEN_TLS_ELSEWHERE=1.",
        )
    door = Door(app, _callers(address), worker, address.door)
    with (
        serving(door, address.host, address.port, address.limits, address.tls) as url,
        registered(address.run_dir, worker, url, address.token_file),
    ):
        yield url


def _callers(address: Address) -> Callers:
    keys: list[Keys] = [OwnToken(own_secret(address.token_file))]
    if address.tokens_file:
        keys.append(NamedTokens(address.tokens_file))
    if address.issuer:
        keys.append(Issuer(address.issuer))
    return Callers(keys)


@contextmanager
def serving(
    door: Door, host: str, port: int, limits: Limits | None = None, tls: TlsFiles | None = None
) -> Iterator[str]:
    """Serve what is behind a door in a thread of its own while the block runs; yield the URL with the port.

    `port`: 0 for any free one. Raises FatalError: "http-port" if the system does not let us listen there,
    "tls-certificate".
    """
    import uvicorn

    from histgen_lib.runtime.web import connections
    from histgen_lib.runtime.web.handshakes import handshake_class
    from histgen_lib.runtime.web.tls import Certificate

    class Server(connections.BoundedServer):
        """A server that sleeps until it is to stop; uvicorn's own checks about ten times a second."""

        async def main_loop(self) -> None:
            await leaving.wait()

    leaving = _Signal()
    limits = limits or Limits()
    certificate = Certificate(tls) if tls else None
    listener = _listen(host, port)
    table = connections.ConnectionTable(limits)
    protocol = connections.connection_class(table)
    config = uvicorn.Config(
        door.counted(Guard(door, host, limits.names)),
        http=handshake_class(protocol, table, certificate) if certificate else protocol,
        ws="none",
        proxy_headers=False,  # anybody can write them: a caller is who the kernel or a token says
        backlog=limits.at_a_time,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=IDLE_S,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=1,
    )
    server = Server(config)
    server.table = table
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"{'https' if tls else 'http'}://{shown}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        leaving.send()
        thread.join(CLOSE_S)
        listener.close()


@contextmanager
def registered(run_dir: Path | None, name: str, url: str, token_file: Path) -> Iterator[None]:
    """Publish in `run_dir`/<name>-<pid>.json how to reach this process, while the block runs.

    The file names the process's URL and the file with its token. `run_dir`/targets/ gets the address in
    Prometheus's file_sd format. A killed process leaves both files behind, so readers must check that the
    process is alive.
    """
    if run_dir is None:
        yield
        return
    file = f"{name}-{os.getpid()}.json"
    scheme, _, reached_at = url.partition("://")
    labels = {"service": name, **({"__scheme__": scheme} if scheme != "http" else {})}
    targets = [{"targets": [reached_at], "labels": labels}]
    address = {"name": name, "pid": os.getpid(), "url": url, "token_file": str(token_file.absolute())}
    files = {run_dir / "targets" / file: targets, run_dir / file: address}
    for path, content in files.items():
        write_atomic(path, json.dumps(content).encode())
    try:
        yield
    finally:
        for path in files:
            path.unlink(missing_ok=True)


class _Signal:
    """Wakes a coroutine from another thread, once, even if it starts waiting only afterwards."""

    def __init__(self) -> None:
        self._sent: Future[None] = Future()

    def send(self) -> None:
        """Wake the coroutine."""
        self._sent.set_result(None)

    async def wait(self) -> None:
        """Return once the signal was sent."""
        await asyncio.wrap_future(self._sent)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # notices peers that vanish
        return listener
    except OSError:
        raise FatalError(
            "http-port",
            f"Nothing can listen on {host} port {port}.",
            hint="Set HISTGEN_PORT to 0 or a free port, and HISTGEN_HOST to an address of this machine.",
        ) from None
