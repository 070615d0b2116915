"""An object store in memory."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from histgen_lib.files import atomic_path
from histgen_lib.storage import ObjectInfo
from histgen_lib.storage._keys import bad_key, check_key, check_prefix, missing


@dataclass(frozen=True)
class _Object:
    data: bytes
    etag: str
    modified_at: float


class MemoryStore:
    """An `ObjectStore` that keeps its objects in this process; `clock` gives their time, seconds since 1970.

    Set `error` to have every call raise it, as a store does that is away.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.error: Exception | None = None
        self._clock = clock
        self._lock = threading.Lock()
        self._objects: dict[str, _Object] = {}
        self._numbers = itertools.count()

    def put(self, key: str, data: bytes | Path, *, if_absent: bool = True, content_type: str = "") -> bool:
        """See `ObjectStore.put`."""
        content = data if isinstance(data, bytes) else data.read_bytes()
        self._check(key)
        with self._lock:
            if if_absent and key in self._objects:
                return False
            if any(_clash(key, other) for other in self._objects):
                raise bad_key()
            self._objects[key] = _Object(content, f"{next(self._numbers)}", self._clock())
        return True

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        data = self.find(key)
        if data is None:
            raise missing(key)
        return data

    def find(self, key: str) -> bytes | None:
        """See `ObjectStore.find`."""
        self._check(key)
        found = self._objects.get(key)
        return None if found is None else found.data

    def fetch(self, key: str, path: Path) -> None:
        """See `ObjectStore.fetch`."""
        data = self.get(key)
        with atomic_path(path) as unfinished:
            unfinished.write_bytes(data)

    def chunks(self, key: str, size: int = 1 << 20) -> Iterator[bytes]:
        """See `ObjectStore.chunks`."""
        data = self.get(key)
        for start in range(0, len(data), size):
            yield data[start : start + size]

    def head(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore.head`."""
        self._check(key)
        found = self._objects.get(key)
        return None if found is None else ObjectInfo(key, len(found.data), found.etag, found.modified_at)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`."""
        check_prefix(prefix)
        self._check_there()
        with self._lock:
            found = sorted((key, one) for key, one in self._objects.items() if key.startswith(prefix))
        for key, one in found:
            yield ObjectInfo(key, len(one.data), one.etag, one.modified_at)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        self._check(key)
        with self._lock:
            self._objects.pop(key, None)

    def uri(self, key: str) -> str:
        """See `ObjectStore.uri`: "memory:///key", which nothing opens."""
        return f"memory:///{check_key(key)}"

    def contents(self, prefix: str = "") -> dict[str, bytes]:
        """Return the objects whose keys start with `prefix`, by key."""
        with self._lock:
            return {key: self._objects[key].data for key in sorted(self._objects) if key.startswith(prefix)}

    def _check(self, key: str) -> None:
        check_key(key)
        self._check_there()

    def _check_there(self) -> None:
        if self.error is not None:
            raise self.error


def _clash(key: str, other: str) -> bool:
    """Return whether one key lies under the other."""
    return key.startswith(f"{other}/") or other.startswith(f"{key}/")
