"""An object store in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from histgen_lib.files import atomic_path, sha256_hex
from histgen_lib.storage._port import ObjectInfo, bad_key, check_foreign_key, check_key, check_prefix, missing


class MemoryStore:
    """An `ObjectStore` that keeps its objects in this process; `clock` gives their time, seconds since 1970.

    `objects` holds the bytes by key, to look at and to change. Set `error` to have every call raise it, as a
    store does that is unavailable. With `ours` false it stands for a bucket that others write
    (`histgen_lib.storage.open_foreign_bucket`): any key that S3 takes.
    """

    def __init__(self, clock: Callable[[], float] = time.time, *, ours: bool = True) -> None:
        self.error: Exception | None = None
        self.objects: dict[str, bytes] = {}
        self._clock, self._ours = clock, ours
        self._lock = threading.Lock()
        self._modified_at: dict[str, float] = {}

    def put(self, key: str, data: bytes | Path, *, if_absent: bool = True, content_type: str = "") -> bool:
        """See `ObjectStore.put`."""
        content = data if isinstance(data, bytes) else data.read_bytes()
        self._check(key)
        with self._lock:
            if if_absent and key in self.objects:
                return False
            if self._ours and any(_clash(key, other) for other in self.objects):
                raise bad_key()
            self.objects[key], self._modified_at[key] = content, self._clock()
        return True

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        self._check(key)
        data = self.objects.get(key)
        if data is None:
            raise missing(key)
        return data

    def find(self, key: str) -> bytes | None:
        """See `ObjectStore.find`."""
        self._check(key)
        return self.objects.get(key)

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
        data = self.objects.get(key)
        return None if data is None else self._info(key, data)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`."""
        if self._ours:
            check_prefix(prefix)
        self._check_there()
        with self._lock:
            found = sorted((key, data) for key, data in self.objects.items() if key.startswith(prefix))
        return iter([self._info(key, data) for key, data in found])

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        self._check(key)
        with self._lock:
            self.objects.pop(key, None)

    def uri(self, key: str) -> str:
        """See `ObjectStore.uri`: "memory:///key", which nothing opens."""
        return f"memory:///{check_key(key)}"

    def _info(self, key: str, data: bytes) -> ObjectInfo:
        return ObjectInfo(key, len(data), sha256_hex(data)[:16], self._modified_at.get(key, 0.0))

    def _check(self, key: str) -> None:
        (check_key if self._ours else check_foreign_key)(key)
        self._check_there()

    def _check_there(self) -> None:
        if self.error is not None:
            raise self.error


def _clash(key: str, other: str) -> bool:
    """Return whether one key lies under the other."""
    return key.startswith(f"{other}/") or other.startswith(f"{key}/")
