"""A way to a server on which every message takes as long as a test wants."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

_CHUNK = 1 << 16


class SlowWay:
    """Forwards connections to a port of this machine. `delay_s`: what each message to the server takes."""

    def __init__(self, to_port: int) -> None:
        self.delay_s, self._to_port = 0.0, to_port
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.port = int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Stop it."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._connect, "127.0.0.1", 0)

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            theirs, to_them = await asyncio.open_connection("127.0.0.1", self._to_port)
            await asyncio.gather(self._carry(reader, to_them, slowly=True), self._carry(theirs, writer))

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slowly: bool = False
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                await asyncio.sleep(self.delay_s if slowly else 0)
                writer.write(data)
                await writer.drain()
        writer.close()
