"""An S3 server whose objects arrive as slowly as a test wants: metadata at once, bytes on demand."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class SlowBucket:
    """Every key has its own content. `go_on` lets the bytes come."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._head()

            def do_GET(self) -> None:
                self._head()
                bucket.go_on.wait(30)
                self.wfile.write(content_of(self.path))

            def _head(self) -> None:
                content = content_of(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()[:32]}"')
                self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()


def content_of(path: str) -> bytes:
    """Return the object at "/bucket/key"."""
    return f"pixels of {path.partition('?')[0]}".encode()
