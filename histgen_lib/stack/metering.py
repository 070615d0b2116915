"""The metrics of the stack itself: what had to be started again. Served beside those of its services."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from histgen_lib.files import write_atomic
from histgen_lib.telemetry import exposition, metrics

NAME = "up"


def count_restart(part: str, frozen: bool) -> None:
    """Count a process that ended, or was ended because it showed no life."""
    metrics.RESTARTS.labels(part, "frozen" if frozen else "ended").inc()


@contextmanager
def metered(run_dir: Path) -> Iterator[None]:
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
