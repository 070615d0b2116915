"""A small HTTP server beside the work: health and metrics pages, and files that say where it listens."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.files import write_atomic
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.web.guard import CHALLENGE, HEAD_BYTES, UNAUTHORISED, BearerAuth, Guard, Limits
from histgen_lib.telemetry import exposition

if TYPE_CHECKING:
    from starlette.applications import Starlette

CLOSE_S = 2.0
IDLE_S = 5
"""How long a connection may stay open between two requests."""


def health_app(board: Board, auth: BearerAuth) -> Starlette:
    """Make the pages that show `board`: /metrics, /healthz, /readyz and /status.

    /healthz: 503 once a loop has stood still for 30 s. /readyz: 503, with what is missing, while no work can
    be done or the service is stopping. /status: what is in hand; it names slides, so it requires the token.
    The other pages name none, and stay open for Prometheus and Kubernetes.
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

    async def status(request: Request) -> Response:
        try:
            auth.check(request.headers.get("authorization"))
        except InvalidInputError as error:
            return JSONResponse({"error": error.to_json()}, UNAUTHORISED, CHALLENGE)
        return JSONResponse(board.status())

    pages = {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz, "/status": status}
    return Starlette(routes=[Route(path, page) for path, page in pages.items()])


@contextmanager
def serving(app: Starlette, host: str, port: int, limits: Limits | None = None) -> Iterator[str]:
    """Serve `app` in a thread of its own while the block runs; yield the URL with the actual port.

    `port`: 0 for any free one. Raises FatalError("http-port") if the system does not let us listen there.
    """
    import uvicorn

    from histgen_lib.runtime.web import connections

    class Server(connections.BoundedServer):
        """A server that sleeps until it is to stop; uvicorn's own checks about ten times a second."""

        async def main_loop(self) -> None:
            await leaving.wait()

    leaving = _Signal()
    limits = limits or Limits()
    listener = _listen(host, port)
    table = connections.ConnectionTable(limits)
    config = uvicorn.Config(
        Guard(app, host, limits.names),
        http=connections.connection_class(table),
        ws="none",
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
        yield f"http://{shown}:{listener.getsockname()[1]}"
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
    targets = [{"targets": [url.removeprefix("http://")], "labels": {"service": name}}]
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
