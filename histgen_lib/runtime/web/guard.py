"""What a server demands of its clients: limits on their connections, and a host name it knows."""

from __future__ import annotations

import ipaddress
import json
import re
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histgen_lib.errors import InvalidInputError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HEAD_BYTES, MOST_HEADERS = 16 << 10, 100
"""Limits on the request line and headers; a token and what proxies add take one or two KiB."""

READ_S, LINGER_S = 30.0, 5.0
"""How long a client may take to read a response, and then to close or to send the rest of its request."""

_SHARE = 4
"""Connections may use one in so many of the process's file descriptors: slides need some, too."""
_AT_A_TIME = 32
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]/@]+)(?::[0-9]{1,5})?")
_LOCALHOST = "localhost"


@dataclass(frozen=True)
class Limits:
    """`connections`: open at a time; `peer_connections`: of those, from one address.

    A connection over the limit replaces the oldest one whose client keeps the server waiting. If there is
    none, the new connection is refused.

    `head_s`: seconds for the request line and headers, also on a connection that sends nothing; `body_s`:
    seconds for the body. `names`: host names of the server beside those of loopback.
    """

    connections: int = 256
    peer_connections: int = 128
    head_s: float = 10.0
    body_s: float = 30.0
    names: tuple[str, ...] = ()

    @property
    def affordable(self) -> int:
        """Return how many connections this process can keep open, given its limit on file descriptors."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return self.connections if soft < 0 else max(1, min(self.connections, soft // _SHARE))

    @property
    def at_a_time(self) -> int:
        """Return how many connections to accept before reading requests again.

        It is less than a peer may have, so that a request that arrives with its connection is read before
        other connections push it out.
        """
        return max(1, min(_AT_A_TIME, self.peer_connections // 2, self.affordable // 2))

    def patience_s(self, owed: str) -> float:
        """Return how long a client may owe the server a "head" or a "body", or take to "read" or "close"."""
        return {"head": self.head_s, "body": self.body_s + LINGER_S, "read": READ_S, "close": LINGER_S}[owed]


class Guard:
    """ASGI middleware that refuses requests with an unknown Host header, or with too many headers.

    A web page can point its own host name at this machine (DNS rebinding), and the browser then treats this
    server as part of that page's site. Such requests carry the page's host name, so they are refused.

    `host`: the address the server listens on. `names`: its further host names. Addresses are accepted as
    well, since no host name reads as one: on loopback those of loopback, elsewhere all.
    """

    def __init__(self, app: ASGIApp, host: str, names: Iterable[str] = ()) -> None:
        self._app = app
        self._everywhere = not is_loopback(host)
        self._names = {_LOCALHOST, *(_plain(name) for name in (host, *names))}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        refusal = self._refusal(scope["headers"])
        if refusal is None:
            await self._app(scope, receive, send)
            return
        from starlette.responses import Response

        error, status = refusal
        headers = {"connection": "close"}
        body = json.dumps({"error": error.to_json()})
        answer = Response(body, status, headers, media_type="application/json")
        await answer(scope, receive, send)

    def _refusal(self, headers: list[tuple[bytes, bytes]]) -> tuple[InvalidInputError, int] | None:
        if len(headers) > MOST_HEADERS or sum(len(name) + len(value) for name, value in headers) > HEAD_BYTES:
            return _TOO_LARGE, 431
        names = {name for name, _ in headers}
        if {b"content-length", b"transfer-encoding"} <= names:  # RFC 9112, 6.1: a proxy may see another body
            return _TWO_LENGTHS, 400
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        return None if len(hosts) == 1 and self.knows(hosts[0]) else (_UNKNOWN_HOST, 403)

    def knows(self, host: str) -> bool:
        """Return whether the value of a Host header names this server, with any port."""
        found = _HOST.fullmatch(host.strip())
        if not found:
            return False
        name = _plain(found[1])
        return name in self._names or (_is_address(name) if self._everywhere else is_loopback(name))


def _plain(name: str) -> str:
    return name.strip("[]").removesuffix(".").lower()


def is_loopback(name: str) -> bool:
    """Return whether a host name or address is this machine's own, which no other machine reaches."""
    return name == _LOCALHOST or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


_TWO_LENGTHS = InvalidInputError(
    "request-unreadable",
    "The request states the length of its body in two ways.",
    hint="Send either Content-Length or Transfer-Encoding.",
)
_UNKNOWN_HOST = InvalidInputError(
    "request-host",
    "The request's Host header is not a name of this service.",
    hint="Use the address that the service announces, or add the name to HISTGEN_HTTP_NAMES.",
)
_TOO_LARGE = InvalidInputError(
    "request-too-large",
    f"The request has more than {MOST_HEADERS} headers, or more than {HEAD_BYTES >> 10} KiB of them.",
    hint="Send only the token and the content type; no other header is needed.",
)
