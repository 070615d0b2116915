"""A small server beside the work: metrics, health, and where it is reached."""

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

from histgen_lib.errors import FatalError
from histgen_lib.files import write_atomic
from histgen_lib.runtime.guard import Guard
from histgen_lib.runtime.limits import HEAD_BYTES, Limits

if TYPE_CHECKING:
    from starlette.applications import Starlette

CLOSE_S = 2.0
IDLE_S = 5
"""How long a connection may stay without a further request."""


@contextmanager
def serving(app: Starlette, host: str, port: int, limits: Limits | None = None) -> Iterator[str]:
    """Serve `app` in a thread of its own while the block runs; yield its URL, with the port that was taken.

    Whoever connects is granted what `limits` say. Raises FatalError("http-port") where the system does not
    let us listen.
    """
    import uvicorn

    from histgen_lib.runtime import _connections as bounded

    class Server(bounded.BoundedServer):
        """One that sleeps until it is told to leave; uvicorn's own looks about ten times a second."""

        async def main_loop(self) -> None:
            await leaving.wait()

    leaving = _Leaving()
    granted = limits or Limits()
    listener = _listen(host, port)
    crowd = bounded.Crowd(granted)
    config = uvicorn.Config(
        Guard(app, host, granted.names),
        http=bounded.connection_class(crowd),
        ws="none",
        backlog=granted.at_a_time,
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
    server.crowd = crowd
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{shown}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        leaving.tell()
        thread.join(CLOSE_S)
        listener.close()


@contextmanager
def announced(run_dir: Path | None, name: str, url: str, token_file: Path) -> Iterator[None]:
    """Say in `run_dir`/<name>-<pid>.json where this process is reached, while the block runs.

    With it, `token_file` is named: there lies the token that it wants. Beside it, in `run_dir`/targets/,
    Prometheus is told the address (its file_sd format). A process that was killed leaves the files: who reads
    them has to look whether the process is there.
    """
    if run_dir is None:
        yield
        return
    file = f"{name}-{os.getpid()}.json"
    targets = [{"targets": [url.removeprefix("http://")], "labels": {"service": name}}]
    told = {
        run_dir / "targets" / file: targets,
        run_dir / file: {
            "name": name,
            "pid": os.getpid(),
            "url": url,
            "token_file": str(token_file.absolute()),
        },
    }
    for path, content in told.items():
        write_atomic(path, json.dumps(content).encode())
    try:
        yield
    finally:
        for path in told:
            path.unlink(missing_ok=True)


class _Leaving:
    """Tells a coroutine in another thread, once, that it is time; also if it begins to wait only then."""

    def __init__(self) -> None:
        self._told: Future[None] = Future()

    def tell(self) -> None:
        """Say that it is time."""
        self._told.set_result(None)

    async def wait(self) -> None:
        """Return when it is time."""
        await asyncio.wrap_future(self._told)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # who goes without a word is missed
        return listener
    except OSError:
        raise FatalError(
            "http-port",
            f"Nothing can listen on {host} port {port}.",
            hint="Set HISTGEN_PORT to 0 or a port that is free, HISTGEN_HOST to an address of this machine.",
        ) from None
