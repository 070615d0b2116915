"""Before any page: a request calls the server by a name that it has, and its head is not too long.

A web page can have its own name point at this machine (DNS rebinding), and the browser would then let it in
as if it belonged here. What it cannot do is name the server as others do: its requests bear its own name.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from histgen_lib.errors import InvalidInputError
from histgen_lib.runtime.limits import HEAD_BYTES, MOST_HEADERS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]/@]+)(?::[0-9]{1,5})?")
_LOCALHOST = "localhost"


class Guard:
    """An application around `app` that turns away what is not meant for it, whatever the page.

    `host`: the address it listens on. `names`: further names by which it may be called. Any address of its
    own kind may be: on loopback those of loopback, elsewhere all, since no name can be made to read as one.
    """

    def __init__(self, app: ASGIApp, host: str, names: Iterable[str] = ()) -> None:
        self._app = app
        self._everywhere = not _is_loopback(host)
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
            return _LONG, 431
        named = [value.decode("latin-1") for name, value in headers if name == b"host"]
        return None if len(named) == 1 and self.is_called(named[0]) else (_STRANGE, 403)

    def is_called(self, host: str) -> bool:
        """Tell whether the value of a Host header names this server, with whatever port."""
        found = _HOST.fullmatch(host.strip())
        if not found:
            return False
        name = _plain(found[1])
        return name in self._names or (_is_address(name) if self._everywhere else _is_loopback(name))


def _plain(name: str) -> str:
    return name.strip("[]").removesuffix(".").lower()


def _is_loopback(name: str) -> bool:
    return name == _LOCALHOST or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


_STRANGE = InvalidInputError(
    "request-host",
    "The request calls this service by a name that it does not have.",
    hint="Send it to the address that the service announces, or add the name to HISTGEN_HTTP_NAMES.",
)
_LONG = InvalidInputError(
    "request-too-large",
    f"The request has more than {MOST_HEADERS} headers, or more than {HEAD_BYTES >> 10} KiB of them.",
    hint="Send the token and the type of the body; nothing else is wanted.",
)
