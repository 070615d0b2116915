"""The pages every worker serves: /metrics, /healthz, /readyz, /status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histgen_lib.errors import InvalidInputError
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.lock import CHALLENGE, UNAUTHORISED, Lock
from histgen_lib.telemetry import exposition

if TYPE_CHECKING:
    from starlette.applications import Starlette


def health_app(board: Board, lock: Lock) -> Starlette:
    """Make the application that shows `board`.

    /healthz: 503 once the poll loop has stood still for 30 s. /readyz: 503, and what is missing, while a job
    could not be done now, or the worker is stopping. /status: what is in hand; as it names slides, it is for
    those who have the token of `lock`. The other pages name none: Prometheus and Kubernetes ask for them.
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
            lock.check(request.headers.get("authorization"))
        except InvalidInputError as error:
            return JSONResponse({"error": error.to_json()}, UNAUTHORISED, CHALLENGE)
        return JSONResponse(board.status())

    pages = {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz, "/status": status}
    return Starlette(routes=[Route(path, page) for path, page in pages.items()])
