"""Attempts, counted where every process can see them: one small object each, put before the job.

For a fresh event, the first put is the only request: if attempts/<worker>/<event_id>/1 was not there, the
event was neither begun nor given up before. That holds because an event that was given up keeps its first
attempt forever, and only one that was finished loses them all. Lists and look-ups are made only if the put
finds an earlier attempt. A put whose answer was lost is no attempt; its mark tells whose it was.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from histgen_lib.catalogue.keys import ATTEMPTS
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.storage import ObjectStore


@dataclass(frozen=True)
class Attempt:
    """One attempt at an event.

    `earlier`: keys of attempts that began before and are not known to have ended well. `key`: of this
    attempt; None if all attempts are used up and this one may only look for finished objects.
    """

    event_id: str
    earlier: tuple[str, ...]
    key: str | None

    @property
    def number(self) -> int:
        """Which attempt this is, from 1; the last one's number if they are used up."""
        return len(self.earlier) + (self.key is not None)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all of the event's attempts."""
        return (*self.earlier, self.key) if self.key else self.earlier


class Attempts:
    """The attempts of all workers of one name. Methods may be called from several threads."""

    def __init__(self, store: ObjectStore, worker: str) -> None:
        self._store, self._prefix = store, f"{ATTEMPTS}{worker}/"
        self._ended: set[str] = set()
        self._doubtful: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def begin(self, event_id: str, most: int) -> Attempt:
        """Count an attempt, durably, unless `most` were begun before.

        Raises TransientError if the store is unavailable.
        """
        self.sweep(event_id)
        prefix = f"{self._prefix}{event_id}/"
        earlier: tuple[str, ...] = ()
        number = 1
        while not self._put(f"{prefix}{number}"):
            earlier = tuple(info.key for info in self._store.list(prefix))
            if len(earlier) >= most:
                return Attempt(event_id, earlier, None)
            number = 1 + max([number, *map(_number, earlier)])
        return Attempt(event_id, earlier, f"{prefix}{number}")

    def forget(self, keys: Iterable[str]) -> None:
        """Note attempts that ended, for `sweep` to remove; never waits for the store."""
        self._ended.update(keys)

    def sweep(self, event_id: str = "") -> None:
        """Remove ended attempts, of one event or of all. TransientError leaves the rest for the next call.

        Each is removed once, under a lock: a second removal could meet a new attempt under the same key.
        """
        for key in sorted(self._doubtful):
            if _is_of(event_id, key):
                with self._lock:
                    mark = self._doubtful.get(key)
                    if mark and self._has(key, mark):
                        self._store.delete(key)
                    self._doubtful.pop(key, None)
        for key in sorted(self._ended):
            if _is_of(event_id, key):
                with self._lock:
                    if key in self._ended:
                        self._store.delete(key)
                        self._ended.discard(key)

    @property
    def unswept(self) -> bool:
        """Whether `sweep` has anything to do."""
        return bool(self._ended)

    def _put(self, key: str) -> bool:
        """Put an attempt; False if there is another one with that number."""
        mark = secrets.token_hex(8).encode()
        try:
            return self._store.put(key, mark) or self._has(key, mark)
        except TransientError:
            self._doubtful[key] = mark
            raise

    def _has(self, key: str, mark: bytes) -> bool:
        try:
            return self._store.get(key) == mark
        except InvalidInputError:
            return False


def _is_of(event_id: str, key: str) -> bool:
    return not event_id or key.split("/")[-2] == event_id


def _number(key: str) -> int:
    tail = key.rsplit("/", 1)[1]
    return int(tail) if tail.isdecimal() else 0
