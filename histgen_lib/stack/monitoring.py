"""How the stack reports on itself: to a log, to Prometheus by /metrics, and to systemd if that started it."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path

from histgen_lib.files import write_atomic
from histgen_lib.runtime.silence import is_ending
from histgen_lib.telemetry import exposition, metrics

NAME = "up"
_SOCKET, _WATCHDOG, _WATCHED = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
_BEATS = 3
"""How many signs of life to send within the time after which systemd would restart us."""


def count_restart(part: str, frozen: bool) -> None:
    """Count a process that ended, or was ended because it was frozen."""
    metrics.RESTARTS.labels(part, "frozen" if frozen else "ended").inc()


def list_target(run_dir: Path, name: str, pid: int, address: str, **labels: str) -> Path:
    """List a process at host:port in `run_dir`/targets, where Prometheus looks (file_sd); return the file."""
    path = _targets(run_dir) / f"{name}-{pid}.json"
    targets = [{"targets": [address], "labels": {"service": name, **labels}}]
    write_atomic(path, json.dumps(targets).encode())
    return path


def clear_targets(run_dir: Path) -> None:
    """Remove from that list what killed processes have left: nobody can scrape them any more."""
    for path in _targets(run_dir).glob("*-*.json"):
        pid = path.stem.rpartition("-")[2]
        if pid.isdecimal() and (not Path(f"/proc/{pid}").exists() or is_ending(int(pid))):
            path.unlink(missing_ok=True)


def _targets(run_dir: Path) -> Path:
    return run_dir / "targets"


@contextmanager
def serve_metrics(run_dir: Path) -> Iterator[None]:
    """Serve this process's /metrics while the block runs; write the address to `run_dir`/targets (file_sd).

    Raises FatalError("http-port"), OSError.
    """
    with metrics_page("127.0.0.1", 0) as url:
        path = list_target(run_dir, NAME, os.getpid(), url.removeprefix("http://"))
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def metrics_page(host: str, port: int) -> Iterator[str]:
    """Serve this process's /metrics while the block runs; yield the URL. Raises FatalError("http-port")."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from histgen_lib.runtime.web.callers import Callers
    from histgen_lib.runtime.web.door import Door
    from histgen_lib.runtime.web.server import serving

    async def page(_: Request) -> Response:
        text, media_type = exposition()
        return Response(text, headers={"content-type": media_type})

    app = Starlette(routes=[Route("/metrics", page)])
    with serving(Door(app, Callers([]), NAME), host, port) as url:
        yield url


class _LogFile(logging.FileHandler):
    """A log whose lines are dropped if they cannot be written, as on a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Print nothing: it would go to the terminal, over the live view."""


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Write what the library logs in this process to a file, and not over the live view."""
    logger, handler = logging.getLogger("histgen_lib"), _LogFile(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


class Notifier:
    """Sends notifications to systemd (sd_notify(3)); does nothing without it.

    It removes its variables from `environment`, so that no child process speaks for us or is watched for us.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop(_SOCKET, "")
        limit_us, watched = environment.pop(_WATCHDOG, ""), environment.pop(_WATCHED, "")
        ours = watched in ("", str(os.getpid()))
        self.limit_s = int(limit_us) / 1e6 if ours and limit_us.isdecimal() else 0.0

    def notify(self, *lines: str) -> None:
        """Send, for example, "READY=1". A systemd that does not listen is no reason to stop."""
        if self._address:
            address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
                datagrams.sendto("\n".join(lines).encode(), address)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Send signs of life while the block runs, if systemd expects them."""
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
            self.notify("WATCHDOG=1")
            if ended.wait(self.limit_s / _BEATS):
                return
