"""Bare sockets: clients that are slow, numerous, or do not speak HTTP."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(url: str, *, source: str = "127.0.0.1", sent: bytes = b"") -> socket.socket:
    """Connect from a loopback address and send `sent`."""
    parts = urlsplit(url)
    peer = socket.create_connection((parts.hostname or "", parts.port or 0), 60, (source, 0))
    if sent:
        peer.sendall(sent)
    return peer


def connect_as_told(url: str) -> socket.socket:
    """Connect as the URL says: with TLS to https, whoever signed the certificate."""
    peer = connect(url)
    if not url.startswith("https:"):
        return peer
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    return unverified.wrap_socket(peer)


def heard(peer: socket.socket) -> bytes:
    """Read until the server hangs up."""
    received = b""
    with suppress(ConnectionError):
        while piece := peer.recv(65536):
            received += piece
    return received


def ask(url: str, sent: bytes, *, source: str = "127.0.0.1") -> bytes:
    """Send `sent` and read until the server hangs up."""
    with connect(url, source=source) as peer:
        with suppress(ConnectionError):
            peer.sendall(sent)
        return heard(peer)


def status_of(answer: bytes) -> int:
    """Return the status of an answer; 0 for no answer."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
