"""Load for a gateway, and its resource use, for the short test and the soak test."""

from __future__ import annotations

import os
import socket
import ssl
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from malformed_requests import malformed
from slow_peers import connect_as_told, status_of

ANSWERS = frozenset({0, 100, 200, 202, 400, 401, 403, 404, 405, 413, 422, 429, 431})
"""0: hung up without an answer; 202: a notification without a slide, its malformed records dead letters."""
_PATIENCE_S = 60.0
AT_A_TIME = 32


def send_malformed(url: str, count: int, key: dict[str, str]) -> Counter[int]:
    """Send `count` malformed requests, several at a time; count the answers by status."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return Counter(pool.map(lambda sent: _answered(url, sent), malformed(count, key["authorization"])))


def _answered(url: str, sent: bytes) -> int:
    """Send one request and return its status; 0 if the server hangs up without an answer."""
    answer = b""
    with suppress(ConnectionError, ssl.SSLError), connect_as_told(url) as peer:
        peer.settimeout(_PATIENCE_S)
        with suppress(ConnectionError, ssl.SSLError):  # over TLS, hanging up is an error of its own
            peer.sendall(sent)
            answer = peer.recv(1 << 16)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset by the server
    return status_of(answer)


def files_of(pid: int) -> int:
    """Count the file descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - not a folder of files


def megabytes_of(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
