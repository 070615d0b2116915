"""TLS handshakes that hold up nobody.

asyncio hands a connection over only when its handshake is done; until then nobody counts it. So connections
are accepted as they are, entered into the table, and only then encrypted: a client that never finishes its
handshake owes one, like a client that never finishes a request.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from histgen_lib.runtime.web.connections import Connection, ConnectionTable
from histgen_lib.runtime.web.guard import LINGER_S
from histgen_lib.runtime.web.tls import Certificate


class Handshake(asyncio.Protocol):
    """A connection whose TLS handshake is under way; then it becomes a `protocol`, made with `options`."""

    protocol: type[Connection]
    table: ConnectionTable
    certificate: Certificate
    """The server's; `handshake_class` sets them in a subclass."""

    peer = ""
    awaited = "head"

    def __init__(self, **options: Any) -> None:
        self._options, self._early, self._lost = options, bytearray(), False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enter the table, or hang up; then begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, loop = transport, asyncio.get_running_loop()
        transport.pause_reading()
        self.peer = (transport.get_extra_info("peername") or [""])[0]
        if not self.table.enter(self):
            transport.abort()
            return
        self._timer = loop.call_later(self.table.limits.patience_s(self.awaited), self.cut_off, "slow")
        self._task = loop.create_task(self._shake_hands())

    def data_received(self, data: bytes) -> None:
        """Keep what arrives with the end of the handshake."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the client left."""
        self._lost = True

    def cut_off(self, why: str) -> None:
        """Hang up at once."""
        self.table.cut(why)
        self._leave()
        self._lost = True
        self._transport.abort()

    def _leave(self) -> None:
        self._timer.cancel()
        self.table.leave(self)

    async def _shake_hands(self) -> None:
        patience_s = self.table.limits.patience_s(self.awaited)
        loop, encrypted = asyncio.get_running_loop(), None
        try:
            encrypted = await loop.start_tls(
                self._transport,
                self,
                self.certificate.context(),
                server_side=True,
                ssl_handshake_timeout=patience_s + LINGER_S,  # ours is over first
                ssl_shutdown_timeout=LINGER_S,
            )
        except ssl.SSLError:
            self.table.cut("malformed")
        except OSError:
            pass  # it left
        finally:
            self._leave()
        if encrypted is None or self._lost:
            self._transport.abort()
        else:
            self._hand_over(encrypted)

    def _hand_over(self, encrypted: asyncio.Transport) -> None:
        connection = self.protocol(**self._options)
        connection.beneath = self._transport
        encrypted.set_protocol(connection)
        connection.connection_made(encrypted)
        if self._early:
            connection.data_received(bytes(self._early))


def handshake_class(
    protocol: type[Connection], table: ConnectionTable, certificate: Certificate
) -> type[Handshake]:
    """Make the protocol class for a server's connections before they are encrypted."""
    return type(
        "TableHandshake", (Handshake,), {"protocol": protocol, "table": table, "certificate": certificate}
    )
