"""The connection to LanceDB: a thread for its asynchronous calls, deadlines, and the way to S3.

LanceDB runs threads of its own, which a fork does not copy: a process that forks opens its index after the
fork, or starts its children by spawning them, as the workers do.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from histgen_lib.retrieval._lance_errors import (
    ClashError,
    MovedError,
    storage_translated,
    translated,
    unavailable,
    unusable,
)
from histgen_lib.retrieval._lance_rows import schema
from histgen_lib.storage import StorageSettings, folder_of, s3_credentials

T = TypeVar("T")

TABLES = "tables"
"""The part of the index's keys below which the tables lie."""

_ATTEMPTS = 3
_COPYING_S = 600.0
"""How long one step of a copy may take: building an index is one step, all else takes seconds."""

_TABLES_OPEN = 4
_PAUSE_S = 0.05


class Link:
    """One connection. `run` waits for a call; every failure is translated."""

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self.where = settings.url
        self.deadline_s = _ATTEMPTS * settings.timeout_s
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Any = None
        self._connected_with: dict[str, str] = {}
        self._tables: dict[str, Any] = {}

    def table(self, name: str) -> Any:
        """Open a table, at its latest version. Raises MovedError if there is none."""
        with self._lock:
            connection = self._connect()
            table = self._tables.get(name)
        if table is not None:
            self.run(table.checkout_latest)
            return table
        table = self.run(lambda: connection.open_table(name))
        with self._lock:
            while len(self._tables) >= _TABLES_OPEN:
                self._tables.pop(next(iter(self._tables)))
            self._tables[name] = table
        return table

    def create(self, name: str) -> Any:
        """Make an empty table."""
        with self._lock:
            connection = self._connect()
        return self.run(lambda: connection.create_table(name, schema=schema()))

    def forget(self) -> None:
        """Open tables anew when they are next used."""
        with self._lock:
            self._tables = {}

    def run(self, call: Callable[[], Awaitable[T]], *, copying: bool = False) -> T:
        """Wait for a call, as long as one answer may take (`deadline_s`) or one step of copying."""
        if self._process != os.getpid():  # it would wait for threads that the fork has not copied
            raise unusable(
                self.where, "it was opened before a fork", hint="Open it in the process that uses it."
            )
        limit_s = _COPYING_S if copying else self.deadline_s

        async def within() -> T:
            return await asyncio.wait_for(call(), limit_s)

        with translated(self.where):
            return asyncio.run_coroutine_threadsafe(within(), self._running()).result()

    def batches(self, query: Any, *, copying: bool = False) -> Iterator[Any]:
        """Run a query; yield its answer batch by batch. The deadline is for all of it, unless `copying`."""
        until = time.monotonic() + self.deadline_s
        reader = self.run(query.to_batches, copying=copying)
        while (batch := self.run(lambda: anext(reader, None), copying=copying)) is not None:
            if not copying and time.monotonic() > until:
                raise unavailable(self.where, "slow")
            yield batch

    def close(self) -> None:
        """End what is under way, and the thread."""
        with self._lock:
            loop, self._loop = self._loop, None
            self._tables, self._connection = {}, None
        if loop:
            asyncio.run_coroutine_threadsafe(_end_all(), loop)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="case-index", daemon=True).start()
            return self._loop

    def _connect(self) -> Any:
        """Connect, and again when the credentials have changed: those of roles last for an hour."""
        with storage_translated(self.where):
            options = storage_options(self._settings)
        if self._connection is None or options != self._connected_with:
            import lancedb  # it takes seconds

            self.forget()
            uri = uri_of(self._settings)
            self._connection = self.run(lambda: lancedb.connect_async(uri, storage_options=options or None))
            self._connected_with = options
        return self._connection


async def _end_all() -> None:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)


def uri_of(settings: StorageSettings) -> str:
    """Return where LanceDB keeps the tables."""
    folder = folder_of(settings)
    return str(folder.absolute() / TABLES) if folder else f"{settings.url.rstrip('/')}/{TABLES}"


def storage_options(settings: StorageSettings) -> dict[str, str]:
    """Return how LanceDB reaches S3: as our stores do, with the same credentials; {} for a folder."""
    if folder_of(settings):
        return {}
    timeout = f"{round(1000 * settings.timeout_s)}ms"
    options = {
        "timeout": timeout,
        "connect_timeout": timeout,
        "client_max_retries": str(_ATTEMPTS - 1),
        "client_retry_timeout": str(max(1, round(_ATTEMPTS * settings.timeout_s))),
        **{f"aws_{name}": value for name, value in s3_credentials().items()},
    }
    if settings.region:
        options["aws_region"] = settings.region
    if settings.endpoint:
        options["aws_endpoint"] = settings.endpoint
        options["aws_virtual_hosted_style_request"] = "false"
        options["allow_http"] = str(settings.endpoint.startswith("http://")).lower()
    return options


def retried(attempt: Callable[[], T], link: Link, *, tries: int) -> T:
    """Call `attempt` until no other process gets in its way."""
    for left in range(tries - 1, -1, -1):
        try:
            return attempt()
        except ClashError as error:
            if not left:
                raise unavailable(link.where, "too many writers at once") from error
        except MovedError as error:
            link.forget()
            if not left:
                raise unusable(link.where, "a table or a part of it is missing") from error
        time.sleep(_PAUSE_S)
    raise AssertionError("unreachable")
