"""Telling Prometheus and systemd how the stack is."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path

from histgen_lib.files import write_atomic
from histgen_lib.telemetry import exposition, metrics

NAME = "up"


def count_restart(part: str, frozen: bool) -> None:
    """Count a process that ended, or was ended because it showed no life."""
    metrics.RESTARTS.labels(part, "frozen" if frozen else "ended").inc()


@contextmanager
def serve_metrics(run_dir: Path) -> Iterator[None]:
    """Serve /metrics of this process while the block runs; say in `run_dir`/targets where (file_sd).

    Raises FatalError("http-port"), OSError.
    """
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from histgen_lib.runtime.web.server import serving

    async def page(_: Request) -> Response:
        text, media_type = exposition()
        return Response(text, headers={"content-type": media_type})

    path = run_dir / "targets" / f"{NAME}-{os.getpid()}.json"
    with serving(Starlette(routes=[Route("/metrics", page)]), "127.0.0.1", 0) as url:
        targets = [{"targets": [url.removeprefix("http://")], "labels": {"service": NAME}}]
        write_atomic(path, json.dumps(targets).encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


_SOCKET, _WATCHDOG, _WATCHED = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
_BEATS = 3
"""How often it says that it lives within the time after which systemd would replace it."""


class Notifier:
    """Says things to systemd; to nobody where there is none. Takes what it is told out of `environment`.

    What we start shall not speak for us, nor be taken for what is watched.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop(_SOCKET, "")
        limit_us, watched = environment.pop(_WATCHDOG, ""), environment.pop(_WATCHED, "")
        meant = watched in ("", str(os.getpid()))
        self.limit_s = int(limit_us) / 1e6 if meant and limit_us.isdecimal() else 0.0

    def say(self, *lines: str) -> None:
        """Say, for example, "READY=1"; a systemd that does not listen is no reason to stop."""
        if self._address:
            address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as spoken:
                spoken.sendto("\n".join(lines).encode(), address)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Say in time, again and again while the block runs, that this process lives."""
        ended = threading.Event()
        beats = threading.Thread(target=self._beat, args=(ended,), name="watchdog", daemon=True)
        if self.limit_s:
            beats.start()
        try:
            yield
        finally:
            ended.set()

    def _beat(self, ended: threading.Event) -> None:
        while True:
            self.say("WATCHDOG=1")
            if ended.wait(self.limit_s / _BEATS):
                return
