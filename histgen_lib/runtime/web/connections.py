"""Connections bounded in number, time and bytes, so that slow or endless clients hold up nobody else.

uvicorn bounds idle connections and the size of a request's head. By itself it would wait forever for the
rest of a head or body and for a client to read, and accept connections until file descriptors run out.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from typing import Protocol

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from histgen_lib.runtime.web.guard import Limits
from histgen_lib.telemetry import get_logger

WARN_EVERY_S = 60.0
QUEUE = 1024
"""How many connections may wait in the kernel to be accepted."""

_log = get_logger()


class Held(Protocol):
    """What the table holds. `awaited`: what its client owes now, "" for nothing."""

    peer: str
    awaited: str

    def cut_off(self, why: str) -> None:
        """Hang up at once."""
        ...


class ConnectionTable:
    """The open connections of one server, by peer, oldest first. Only the server's thread may use it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._most = limits.affordable
        self._of: dict[str, dict[Held, None]] = {}
        self._cut: Counter[str] = Counter()
        self._warned = False

    def enter(self, one: Held) -> bool:
        """Add a connection; return False if there is no room and no waiting connection to replace."""
        mine = self._of.setdefault(one.peer, {})
        fits = len(mine) < self.limits.peer_connections or _push_out(mine)
        if fits and sum(map(len, self._of.values())) >= self._most:
            fits = any(map(_push_out, sorted(self._of.values(), key=len, reverse=True)))
        if fits:
            self._of.setdefault(one.peer, {})[one] = None
        else:
            self.cut("crowded")
        return fits

    def leave(self, one: Held) -> None:
        """Remove a connection."""
        others = self._of.get(one.peer, {})
        others.pop(one, None)
        if not others:
            self._of.pop(one.peer, None)

    def cut(self, why: str) -> None:
        """Count a connection that was cut off; log the first at once, later ones together once a minute."""
        self._cut[why] += 1
        if not self._warned:
            self._warn()

    def _warn(self) -> None:
        self._warned = bool(self._cut)
        if self._cut:
            reasons = ", ".join(f"{why}: {count}" for why, count in sorted(self._cut.items()))
            _log.warning("Connections were cut off.", count=self._cut.total(), reason=reasons)
            self._cut.clear()
            asyncio.get_running_loop().call_later(WARN_EVERY_S, self._warn)


def _push_out(connections: dict[Held, None]) -> bool:
    """Cut off the oldest connection that keeps the server waiting; return False if there is none."""
    late = next((one for one in connections if one.awaited), None)
    if late:
        late.cut_off("crowded")
    return late is not None


class Connection(H11Protocol):
    """One connection. `awaited`: what its client owes now: a "head", a "body", or to "read" or "close"."""

    table: ConnectionTable
    """The server's table; `connection_class` sets it in a subclass."""

    peer = ""
    awaited = ""
    beneath: asyncio.Transport | None = None
    """What carries an encrypted connection."""
    _timer: asyncio.TimerHandle | None = None
    _since: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Add the new connection to the table, or hang up."""
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""
        if self.table.enter(self):
            self._watch()
        else:
            self._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the table."""
        self._wait_for("")
        self.table.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process received bytes."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Continue with the next request; close if this one's body, which nobody needs, is still to come."""
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self.transport.close()
        super().on_response_complete()
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that sends no further request."""
        super().timeout_keep_alive_handler()
        self._watch()

    def pause_writing(self) -> None:
        """Stop writing until the client reads."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Continue writing."""
        super().resume_writing()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse malformed HTTP, and tell the handler of its first half, if any, that the client is gone."""
        self.table.cut("malformed")
        if self.cycle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # the response had begun
            self._abort()

    def cut_off(self, why: str) -> None:
        """Hang up at once."""
        self.table.cut(why)
        self.table.leave(self)
        self._wait_for("")
        self._abort()

    def _abort(self) -> None:
        """Hang up without the farewell of TLS, which a client may never answer."""
        (self.beneath or self.transport).abort()

    def _watch(self) -> None:
        """Restart the timer when the client owes something new; bytes that trickle in do not extend it."""
        owed = self._owed()
        if (owed, self.cycle) != (self.awaited, self._since):
            self._since = self.cycle
            self._wait_for(owed)

    def _owed(self) -> str:
        if self.transport.is_closing():
            return "close"
        if self.flow.write_paused:
            return "read"
        return {h11.IDLE: "head", h11.SEND_BODY: "body"}.get(self.conn.their_state, "")

    def _wait_for(self, owed: str) -> None:
        if self._timer:
            self._timer.cancel()
        self.awaited, self._timer = owed, None
        if owed:
            self._timer = self.loop.call_later(self.table.limits.patience_s(owed), self.cut_off, "slow")


class _NoWarnings(logging.Filter):
    """Drops uvicorn's warning about each malformed request; the table counts those."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING


class _NoWritesToNobody(logging.Filter):
    """Drops asyncio's warnings about answers to clients that have left."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg not in ("socket.send() raised exception.", "SSL connection is closed")


_NO_WARNINGS, _NO_WRITES_TO_NOBODY = _NoWarnings(), _NoWritesToNobody()


def connection_class(table: ConnectionTable) -> type[Connection]:
    """Make the protocol class for a server's connections."""
    logging.getLogger("uvicorn.error").addFilter(_NO_WARNINGS)
    logging.getLogger("asyncio").addFilter(_NO_WRITES_TO_NOBODY)
    return type("TableConnection", (Connection,), {"table": table})


class BoundedServer(uvicorn.Server):
    """A server that accepts a few connections at a time, and counts those it has no file descriptor for."""

    table: ConnectionTable

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen; the kernel may queue more connections than are accepted at a time."""
        asyncio.get_running_loop().set_exception_handler(self._on_trouble)
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(QUEUE)

    def _on_trouble(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        if str(context.get("message", "")).startswith("socket.accept()"):
            self.table.cut("no files left")
        else:
            loop.default_exception_handler(context)
