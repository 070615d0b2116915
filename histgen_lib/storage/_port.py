"""The port to object storage, and which keys are valid: the same ones for every adapter."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from histgen_lib.errors import InvalidInputError
from histgen_lib.names import KEY_BYTES, UNFIT, is_s3_key

JSON, WEBP, PARQUET = "application/json", "image/webp", "application/vnd.apache.parquet"
"""Content types of objects."""
INCOMING = ".incoming"
"""No key starts with this part: the folder adapter keeps unfinished files there."""

_PART_BYTES = 255  # that of Linux' file systems


@dataclass(frozen=True)
class ObjectInfo:
    """Key and size of an object; `etag` changes when its bytes do.

    `modified_at`: when it was written, by the store's clock, in seconds since 1970 (S3: whole ones); 0.0 if
    the server does not say.
    """

    key: str
    size_bytes: int
    etag: str
    modified_at: float = field(compare=False)


class ObjectStore(Protocol):
    """Objects under "/"-separated keys. Safe to use from several threads; each process opens its own.

    An object is seen whole or not at all, and a `put` that returned survives a crash. Keys are relative, at
    most 1024 bytes of UTF-8 and 255 in each part, without empty, "." or ".." parts or control characters, and
    not below ".incoming"; none lies below another ("a", "a/b"). Others raise InvalidInputError("object-key").

    Every method raises TransientError("storage-unavailable") when the store is unavailable, full or slow
    (after the client's own retries), FatalError("storage-denied") when it denies access,
    FatalError("storage-missing") when the bucket or folder does not exist, FatalError("storage-refused") when
    it cannot do what we need.
    """

    def put(self, key: str, data: bytes | Path, *, if_absent: bool = True, content_type: str = "") -> bool:
        """Write an object; a Path is streamed from disk (OSError if there is no such file).

        With `if_absent` the first writer wins: returns False if there was an object, which then stays as it
        is. False may also mean that this very call wrote it, but the answer that said so was lost.
        """
        ...

    def get(self, key: str) -> bytes:
        """Read an object. InvalidInputError("object-missing") if there is none."""
        ...

    def find(self, key: str) -> bytes | None:
        """Read an object; None if there is none."""
        ...

    def fetch(self, key: str, path: Path) -> None:
        """Stream an object to a file, which appears whole or not at all. Raises as `get`."""
        ...

    def chunks(self, key: str, size: int = 1 << 20) -> Iterator[bytes]:
        """Read an object piece by piece. Raises as `get`, when the first piece is asked for."""
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """Look an object up; None if there is none."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose keys start with `prefix`, by key; what has no valid key is left out."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""
        ...

    def uri(self, key: str) -> str:
        """Return where an object lies, for people and events: a file:/// or s3:// URI."""
        ...


@dataclass(frozen=True)
class StorageSettings:
    """`url`: "file:/folder" or "s3://bucket[/prefix]". `endpoint`, `region`: of an S3 other than Amazon's.

    After "file:" comes a path as it is, after "file://" one with percent escapes. A missing folder is made.
    Objects of `multipart_bytes` or more go to S3 in parts of that size, one of which is held in memory.
    `timeout_s`: how long one attempt of three waits for S3 to connect or to answer.
    botocore finds credentials by itself, in its environment variables, files and roles.
    """

    url: str
    endpoint: str | None = None
    region: str | None = None
    multipart_bytes: int = 16 << 20
    timeout_s: float = 4.0


def check_key(key: str) -> str:
    """Return `key`. Raises InvalidInputError("object-key") if it is not valid."""
    if not is_key(key):
        raise bad_key()
    return key


def check_foreign_key(key: str) -> str:
    """Return `key`. Raises InvalidInputError("object-key") if no bucket of others can have it."""
    if not is_s3_key(key):
        raise bad_key()
    return key


def is_key(key: str) -> bool:
    """Return whether `key` may name an object."""
    parts = key.split("/")
    return (
        not any(unicodedata.category(sign) in UNFIT for sign in key)
        and len(key.encode()) <= KEY_BYTES
        and all(part not in ("", ".", "..") and len(part.encode()) <= _PART_BYTES for part in parts)
        and parts[0] != INCOMING
    )


def check_prefix(prefix: str) -> str:
    """Return `prefix`. Raises InvalidInputError("object-key") if no key can start with its whole parts."""
    folder = prefix.rpartition("/")[0]
    if "/" in prefix and not is_key(folder):
        raise bad_key()
    return prefix


def bad_key() -> InvalidInputError:
    """Make the error for a key that cannot be used. It does not repeat the key, which may hold anything."""
    return InvalidInputError(
        "object-key",
        "An object's key cannot be used.",
        hint='Parts between "/" may not be empty, "." or ".."; no control characters, no key below another.',
    )


def missing(key: str) -> InvalidInputError:
    """Make the error for an object that does not exist; `key` has been checked."""
    return InvalidInputError(
        "object-missing",
        f"The store has no object {key}.",
        hint="Replay the event that made it, or correct the key.",
    )
