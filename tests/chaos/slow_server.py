"""A server that answers slowly: every piece of an answer waits before it is passed on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


@contextmanager
def slowed(url: str, delay_s: float) -> Iterator[str]:
    """Pass connections on to a server for the block; yield the URL of the slow door before it."""
    parts = urlsplit(url)
    listener = socket.create_server(("127.0.0.1", 0))
    target = (parts.hostname or "", parts.port or 80)
    threading.Thread(target=_accept, args=(listener, target, delay_s), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def _accept(listener: socket.socket, target: tuple[str, int], delay_s: float) -> None:
    with suppress(OSError):
        while True:
            peer, _ = listener.accept()
            server = socket.create_connection(target)
            for source, sink, pause_s in ((peer, server, 0.0), (server, peer, delay_s)):
                threading.Thread(target=_pass, args=(source, sink, pause_s), daemon=True).start()


def _pass(source: socket.socket, sink: socket.socket, pause_s: float) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            time.sleep(pause_s)
            sink.sendall(piece)
    for one in (source, sink):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
