"""The port to object storage: whole objects under keys, written once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["ObjectInfo", "ObjectStore", "StorageSettings", "open_store"]


@dataclass(frozen=True)
class ObjectInfo:
    """`key` and `size_bytes` of an object; `etag` changes when its bytes do."""

    key: str
    size_bytes: int
    etag: str


class ObjectStore(Protocol):
    """Objects under "/"-separated keys. Safe to use from several threads and processes.

    An object is seen whole or not at all, and a `put` that returned survives a crash. Keys are relative, without
    empty, "." or ".." parts: InvalidInputError("object-key"). Raises TransientError("storage-unavailable") when
    the store is away, full or slow (after the client's own retries), FatalError("storage-denied") and
    FatalError("storage-missing") when it refuses us or the bucket does not exist.
    """

    def put(self, key: str, data: bytes | Path, *, if_absent: bool = True, content_type: str = "") -> bool:
        """Write an object; a Path is streamed from disk.

        With `if_absent` the first writer wins: False if an object was there, whose bytes then stay as they are.
        """
        ...

    def get(self, key: str) -> bytes:
        """Read an object. InvalidInputError("object-missing") if there is none."""
        ...

    def fetch(self, key: str, path: Path) -> None:
        """Stream an object to a file, which appears whole or not at all. Raises as `get`."""
        ...

    def chunks(self, key: str, size: int = 1 << 20) -> Iterator[bytes]:
        """Read an object piece by piece. Raises as `get`."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """Look an object up; None if there is none."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose keys start with `prefix`, by key."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""
        ...

    def uri(self, key: str) -> str:
        """Say where an object lies, for people and events: file:///… or s3://bucket/…"""
        ...


@dataclass(frozen=True)
class StorageSettings:
    """`url`: "file:/folder" or "s3://bucket[/prefix]". `endpoint`, `region`: of an S3 other than Amazon's.

    Credentials are botocore's business: its environment variables, files and roles.
    """

    url: str
    endpoint: str | None = None
    region: str | None = None
    multipart_bytes: int = 16 << 20


def open_store(settings: StorageSettings) -> ObjectStore:
    """Connect. FatalError("storage-url") for a URL of no known kind."""
    raise NotImplementedError
