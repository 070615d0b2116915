"""Connections bounded in number, time and bytes, so that whoever is slow, or never ends, holds up nobody.

uvicorn bounds idle connections and the size of a head. It waits without end for the rest of a head or a body,
and for a peer to read; it takes connections until there are no more files, and warns of each.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from histgen_lib.runtime.limits import Limits
from histgen_lib.telemetry import get_logger

WARN_EVERY_S = 60.0
QUEUE = 1024
"""How many connections may wait in the kernel."""

_log = get_logger()


class Crowd:
    """The connections of one server, by peer, oldest first. For the server's thread only."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._most = limits.affordable
        self._of: dict[str, dict[Connection, None]] = {}
        self._cut: Counter[str] = Counter()
        self._warned = False

    def enter(self, one: Connection) -> bool:
        """Take a connection in; False if there is no room, and nobody there who only keeps us waiting."""
        mine = self._of.setdefault(one.peer, {})
        fits = len(mine) < self.limits.peer_connections or _push_out(mine)
        if fits and sum(map(len, self._of.values())) >= self._most:
            fits = any(map(_push_out, sorted(self._of.values(), key=len, reverse=True)))
        if fits:
            self._of.setdefault(one.peer, {})[one] = None
        else:
            self.cut("crowded")
        return fits

    def leave(self, one: Connection) -> None:
        """Let a connection go."""
        others = self._of.get(one.peer, {})
        others.pop(one, None)
        if not others:
            self._of.pop(one.peer, None)

    def cut(self, why: str) -> None:
        """Count a connection that was cut off; warn at once of the first, then once a minute of all since."""
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


def _push_out(connections: dict[Connection, None]) -> bool:
    """Cut off the oldest of those that keep us waiting; False if there is none."""
    late = next((one for one in connections if one.awaited), None)
    if late:
        late.cut_off("crowded")
    return late is not None


class Connection(H11Protocol):
    """One connection. `awaited`: what its peer owes us now: a "head", a "body", or to "read" or "close"."""

    crowd: Crowd
    """Of its server: set in a subclass."""

    peer = ""
    awaited = ""
    _timer: asyncio.TimerHandle | None = None
    _since: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection in, or hang up."""
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""
        if self.crowd.enter(self):
            self._watch()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._wait_for("")
        self.crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Go on with what came."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Go on with the next request, unless this one's body is still to come: nobody wants it."""
        if self.conn.their_state is h11.SEND_BODY:
            self.transport.close()
        super().on_response_complete()
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        """Take leave of a peer without a further request."""
        super().timeout_keep_alive_handler()
        self._watch()

    def pause_writing(self) -> None:
        """Wait for the peer to read."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; whoever was answering its first half has nobody to answer any more."""
        self.crowd.cut("malformed")
        if self.cycle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # the answer had begun
            self.transport.abort()

    def cut_off(self, why: str) -> None:
        """Hang up at once."""
        self.crowd.cut(why)
        self.crowd.leave(self)
        self._wait_for("")
        self.transport.abort()

    def _watch(self) -> None:
        """See what the peer owes, and give it time for that: for each request anew, whatever trickles in."""
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
            self._timer = self.loop.call_later(self.crowd.limits.patience_s(owed), self.cut_off, "slow")


class _NoWarnings(logging.Filter):
    """Keeps back what uvicorn warns of each malformed request: that is counted."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING


_NO_WARNINGS = _NoWarnings()


def connection_class(crowd: Crowd) -> type[Connection]:
    """Make the class of a server's connections."""
    logging.getLogger("uvicorn.error").addFilter(_NO_WARNINGS)
    return type("CrowdConnection", (Connection,), {"crowd": crowd})


class BoundedServer(uvicorn.Server):
    """One that takes connections a few at a time, and counts those for which there are no files left."""

    crowd: Crowd

    async def startup(self, sockets: Any = None) -> None:
        """Begin to listen: the system may keep more waiting than are taken at a time."""
        asyncio.get_running_loop().set_exception_handler(self._on_trouble)
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(QUEUE)

    def _on_trouble(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if str(context.get("message", "")).startswith("socket.accept()"):
            self.crowd.cut("no files left")
        else:
            loop.default_exception_handler(context)
