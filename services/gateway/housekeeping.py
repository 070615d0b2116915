"""Loops that keep house in the store: the index of where every slide stands, and the daily pruning."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import get_args

from histgen_lib.bus import BusSettings
from histgen_lib.catalogue.index import Index, make_index, open_index, remove_index
from histgen_lib.catalogue.indexer import Indexer
from histgen_lib.catalogue.pruning import DAY_S, prune, tally
from histgen_lib.catalogue.states import Where
from histgen_lib.errors import FatalError
from histgen_lib.runtime.loops import Loop, LoopContext
from histgen_lib.storage import ObjectStore
from histgen_lib.telemetry import get_logger, metrics

PRUNED_BY = "retention"
"""Who prunes, for the audit log."""
FIRST_PRUNING_S = 300.0
"""How long after the start the first pruning begins: there is more urgent work at first."""
_RETRY_S = 10.0
"""The pause after the index could not be written, or the store refused."""
_CHECK_S = 10.0

_log = get_logger()


class SharedIndex:
    """The index file, made anew when it is missing or damaged. Safe to use from several threads.

    `store_name`: see `histgen_lib.catalogue.index.store_name`. `clock`: monotonic seconds.
    """

    def __init__(self, path: Path, store_name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._store_name, self._clock = path, store_name, clock
        self._lock = threading.Lock()
        self._index: Index | None = None
        self._check_at = 0.0

    def touch(self, slide_id: str, key: str = "") -> None:
        """Have a slide looked at soon; `key`: of an object with news of it. Never raises."""
        try:
            self.open().touch([slide_id], key)
        except (sqlite3.Error, OSError) as error:
            _log.warning("The index could not be notified of a slide; it will find it.", exc_info=error)

    def open(self) -> Index:
        """Return the index. Raises OSError, sqlite3.Error."""
        with self._lock:
            if self._index is None or not self._exists():
                self._close()
                self._index = make_index(self._path, self._store_name)
            return self._index

    def _exists(self) -> bool:
        """Check that others find the index too: this process would not notice if the file was deleted."""
        if self._clock() < self._check_at:
            return True
        self._check_at = self._clock() + _CHECK_S
        index = open_index(self._path, self._store_name)
        if index:
            index.close()
        return index is not None

    def renew(self) -> None:
        """Delete the index; `open` then makes an empty one."""
        with self._lock:
            self._close()
            remove_index(self._path)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._index:
            self._index.close()
        self._index = None


class Indexing(Loop):
    """Keeps the index, from which `histgen status` answers at once. Its failures never stop the gateway.

    Shows how many slides are in which state, once all of them are in the index. `now`: seconds since 1970.
    """

    name = "index"

    def __init__(
        self,
        context: LoopContext,
        index: SharedIndex,
        store: ObjectStore,
        *,
        retry_s: float = _RETRY_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(context)
        self._index, self._store, self._retry_s, self._now = index, store, retry_s, now
        self._indexer: tuple[Index, Indexer] | None = None
        self._oldest_at = math.nan
        metrics.SLIDES_OLDEST.set_function(
            lambda: max(self._now() - self._oldest_at, 0.0)
        )  # NaN first: it stays

    def turn(self) -> None:
        """Look at some slides, then pause long enough that nobody feels it."""
        try:
            pause_s = self.background(self._look)
        except (FatalError, OSError, sqlite3.OperationalError) as error:
            _log.warning("The index of slides cannot be updated now.", exc_info=error)
            pause_s = self._retry_s
        except sqlite3.DatabaseError as error:
            _log.warning("The index of slides is damaged; a new one is made.", exc_info=error)
            self._index.renew()
            self._hide()
            pause_s = self._retry_s
        self.pause(pause_s)

    def close(self) -> None:
        """Close the index."""
        self._hide()
        self._index.close()

    def _look(self) -> float:
        index = self._index.open()
        if self._indexer is None or self._indexer[0] is not index:
            self._hide()
            self._indexer = index, Indexer(self._store, index)
        pause_s = self._indexer[1].turn()
        if index.fact("whole"):
            self._show(index)
        return pause_s

    def _show(self, index: Index) -> None:
        counts, scanned_at = index.counts(), index.oldest_scan()
        for state in get_args(Where):
            metrics.SLIDES.labels(state).set(counts.get(state, 0))
        self._oldest_at = datetime.fromisoformat(scanned_at).timestamp() if scanned_at else math.inf

    def _hide(self) -> None:
        metrics.SLIDES.clear()
        self._oldest_at = math.nan


class Pruning(Loop):
    """Prunes once a day. `days`: by kind, see `histgen_lib.catalogue.pruning.read_retention`."""

    name = "prune"

    def __init__(
        self,
        context: LoopContext,
        store: ObjectStore,
        bus: BusSettings,
        days: Mapping[str, float],
        *,
        first_s: float = FIRST_PRUNING_S,
    ) -> None:
        super().__init__(context)
        self._store, self._bus, self._days, self._wait_s = store, bus, days, first_s

    def turn(self) -> None:
        """Wait until it is time, then prune; an interrupted pruning continues the next time."""
        self.pause(self._wait_s)
        removed = self.background(lambda: tally(prune(self._store, self._bus, self._days, by=PRUNED_BY)))
        for kind, (count, size_bytes) in removed.items():
            _log.info("Pruned.", stage=kind, count=count, size_bytes=size_bytes)
        self._wait_s = DAY_S
