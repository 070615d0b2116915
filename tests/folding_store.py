"""A store that treats names differing only in case, Unicode form or trailing dots as the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

from histgen_lib.storage import ObjectInfo, ObjectStore


class FoldingStore:
    """Wraps a store to behave like a macOS or Windows share: found by any spelling, listed by the first."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    def put(self, key: str, data: bytes | Path, *, if_absent: bool = True, content_type: str = "") -> bool:
        return self.inner.put(self._known(key), data, if_absent=if_absent, content_type=content_type)

    def get(self, key: str) -> bytes:
        return self.inner.get(self._known(key))

    def find(self, key: str) -> bytes | None:
        return self.inner.find(self._known(key))

    def head(self, key: str) -> ObjectInfo | None:
        info = self.inner.head(self._known(key))
        return info and ObjectInfo(key, info.size_bytes, info.etag, info.modified_at)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return (info for info in self.inner.list() if _folded(info.key).startswith(_folded(prefix)))

    def delete(self, key: str) -> None:
        self.inner.delete(self._known(key))

    def uri(self, key: str) -> str:
        return self.inner.uri(key)

    def _known(self, key: str) -> str:
        """Spell each part as the first object that has it."""
        keys = sorted((info.key for info in self.inner.list()), key=len)
        parts: list[str] = []
        for part in key.split("/"):
            ahead = "/".join([*parts, part])
            same = (k for k in keys if _folded(f"{k}/").startswith(_folded(f"{ahead}/")))
            found = next(same, None)
            parts.append(found.split("/")[len(parts)] if found else part)
        return "/".join(parts)


def _folded(key: str) -> str:
    parts = unicodedata.normalize("NFC", key).casefold().split("/")
    return "/".join(part.rstrip(". ") for part in parts)
