"""The loop that keeps the index of slides, from which `histgen status` answers at once."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from histgen_lib.catalogue.index import Index, make_index, open_index, remove_index
from histgen_lib.catalogue.indexer import Indexer
from histgen_lib.errors import FatalError
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.stopping import Stop
from histgen_lib.storage import ObjectStore
from histgen_lib.telemetry import get_logger
from services.gateway.loops import Loop

_AGAIN_S = 10.0
"""Pause after an index that could not be written, or a store that does not let us look."""
_CHECK_S = 10.0

_log = get_logger()


class Kept:
    """An index that may be told of slides at any time; one that is away or damaged is made anew.

    `store_name`: see `histgen_lib.catalogue.index.store_name`.
    """

    def __init__(self, path: Path, store_name: str) -> None:
        self._path, self._store_name, self._lock = path, store_name, threading.Lock()
        self._index: Index | None = None
        self._check_at = 0.0

    def touch(self, slide_id: str, key: str = "") -> None:
        """Have a slide looked at soon; `key`: of an object that tells of it. Never raises."""
        try:
            self.open().touch([slide_id], key)
        except (sqlite3.Error, OSError) as error:
            _log.warning("The index could not be told of a slide; it will find it.", exc_info=error)

    def open(self) -> Index:
        """Return the index. Raises OSError, sqlite3.Error."""
        with self._lock:
            if self._index is None or not self._is_there():
                self._close()
                self._index = make_index(self._path, self._store_name)
            return self._index

    def _is_there(self) -> bool:
        """Tell whether others find the index, too: this process would not notice that the file is gone."""
        if time.monotonic() < self._check_at:
            return True
        self._check_at = time.monotonic() + _CHECK_S
        found = open_index(self._path, self._store_name)
        if found:
            found.close()
        return found is not None

    def renew(self) -> None:
        """Throw the index away; the next that is opened is empty."""
        with self._lock:
            self._close()
            remove_index(self._path)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._index:
            self._index.close()
        self._index = None


class Indexing(Loop):
    """Keeps the index. Nothing that is wrong with it, or with looking, ends or holds up the gateway."""

    name = "index"

    def __init__(self, kept: Kept, store: ObjectStore, board: Board, stop: Stop, **patience: Any) -> None:
        super().__init__(board, stop, **patience)
        self._kept, self._store = kept, store
        self._indexer: tuple[Index, Indexer] | None = None

    def turn(self) -> None:
        """Look at some slides, then rest for as long as it takes not to be felt."""
        try:
            pause_s = self.aside(self._look)
        except (FatalError, OSError, sqlite3.OperationalError) as error:
            _log.warning("The index of slides cannot be kept now.", exc_info=error)
            pause_s = _AGAIN_S
        except sqlite3.DatabaseError as error:
            _log.warning("The index of slides is damaged; it is made anew.", exc_info=error)
            self._kept.renew()
            pause_s = _AGAIN_S
        self.pause(pause_s)

    def close(self) -> None:
        """Let go of the file."""
        self._kept.close()

    def _look(self) -> float:
        index = self._kept.open()
        if self._indexer is None or self._indexer[0] is not index:
            self._indexer = index, Indexer(self._store, index)
        return self._indexer[1].turn()
