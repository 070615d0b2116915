"""A server that tells its settings as a service does: GET /config, for those who have the token."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

REFUSED = {"error": {"code": "token-missing", "message": "A token is required.", "hint": "Send it."}}


@contextmanager
def config_page(settings: Mapping[str, Any] | None, token: str) -> Iterator[str]:
    """Serve the page, or none at all, while the block runs; yield the URL."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("authorization") == f"Bearer {token}"
            status = 404 if settings is None or self.path != "/config" else 200 if known else 401
            answer = {200: json.dumps(settings), 401: json.dumps(REFUSED), 404: "Not Found"}[status]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
