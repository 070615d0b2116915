"""The port to object storage: whole objects under keys, written once."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.names import KEY_BYTES, UNFIT, is_s3_key

__all__ = [
    "HTML",
    "INCOMING",
    "JSON",
    "PARQUET",
    "TEXT",
    "WEBP",
    "ObjectInfo",
    "ObjectStore",
    "StorageSettings",
    "check_key",
    "folder_of",
    "open_foreign_bucket",
    "open_store",
    "store_for_uri",
]

JSON, TEXT, HTML = "application/json", "text/plain; charset=utf-8", "text/html; charset=utf-8"
WEBP, PARQUET = "image/webp", "application/vnd.apache.parquet"
"""Content types of objects."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")


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

    Every method raises TransientError("storage-unavailable") when the store is away, full or slow (after the
    client's own retries), FatalError("storage-denied") when it denies access, FatalError("storage-missing")
    when the bucket or folder does not exist, FatalError("storage-refused") when it cannot do what we need.
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


def open_store(settings: StorageSettings) -> ObjectStore:
    """Open the store; S3 is contacted only when the store is used.

    Raises FatalError("storage-url") for any other URL or a file in the folder's way, and
    FatalError("storage-denied") if the folder cannot be made.
    """
    if folder := folder_of(settings):
        from histgen_lib.storage._file import FileStore

        return FileStore(folder)
    scheme, _, rest = settings.url.partition(":")
    bucket, _, prefix = rest.removeprefix("//").partition("/")
    prefix = prefix.strip("/")
    if (
        scheme == "s3"
        and rest.startswith("//")
        and _BUCKET.fullmatch(bucket)
        and (not prefix or is_key(prefix))
    ):
        from histgen_lib.storage._s3 import open_bucket

        return open_bucket(settings, bucket, prefix)
    raise _bad_url()


def folder_of(settings: StorageSettings) -> Path | None:
    """Return a store's folder; None for a store in S3."""
    scheme, _, rest = settings.url.partition(":")
    return _folder(rest) if scheme == "file" else None


def open_foreign_bucket(settings: StorageSettings, bucket: str) -> ObjectStore:
    """Open a bucket that others write, at the endpoint of `settings`, to read from it.

    Its keys are as S3 has them: with empty parts, and parts of any length (`histgen_lib.names.is_s3_key`).
    `list` returns all objects, also those that cannot be read. Raises as `open_store`.
    """
    if not _BUCKET.fullmatch(bucket):
        raise _bad_url()
    from histgen_lib.storage._s3 import open_bucket

    return open_bucket(settings, bucket, ours=False)


def store_for_uri(uri: str, settings: StorageSettings) -> tuple[ObjectStore, str]:
    """Return the store, for reading, that has an object with this URI, and the object's key there.

    "file:///…" may name any file, symbolic links are followed; "s3://bucket/…" any bucket of the endpoint of
    `settings`. Raises InvalidInputError: "object-uri" for another kind of URI, "object-key".
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme == "s3" and _BUCKET.fullmatch(bucket):
        return open_foreign_bucket(settings, bucket), check_foreign_key(key)
    if scheme == "file" and (path := _folder(f"//{rest}")):
        from histgen_lib.storage._file import FileStore

        path = Path(os.path.realpath(path))
        return FileStore(path.parent, ours=False), check_key(path.name)
    raise InvalidInputError(
        "object-uri",
        "An object's URI cannot be used.",
        hint="Write file:///path/to/it or s3://bucket/key.",
    )


def _bad_url() -> FatalError:
    return FatalError(
        "storage-url",
        "The store's URL cannot be used.",
        hint='Write "file:/folder" or "s3://bucket/prefix".',
    )


def _folder(rest: str) -> Path | None:
    """Read what follows "file:"; None if it names no path of this machine."""
    if "\0" in unquote(rest):
        return None
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        return Path(unquote(f"/{path}")) if slash and host in ("", "localhost") else None
    return Path(rest) if rest else None


INCOMING = ".incoming"
"""No key starts with this part: the folder adapter keeps unfinished files there."""

_PART_BYTES = 255  # that of Linux' file systems


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
