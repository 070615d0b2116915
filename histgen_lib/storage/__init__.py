"""The port to object storage: whole objects under keys, written once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.storage._port import (
    INCOMING,
    JSON,
    PARQUET,
    WEBP,
    ObjectInfo,
    ObjectStore,
    StorageSettings,
    check_foreign_key,
    check_key,
    is_key,
)

__all__ = [
    "INCOMING",
    "JSON",
    "PARQUET",
    "WEBP",
    "ObjectInfo",
    "ObjectStore",
    "StorageSettings",
    "check_key",
    "folder_of",
    "open_foreign_bucket",
    "open_store",
    "s3_credentials",
    "store_for_uri",
]

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")


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


def s3_credentials() -> dict[str, str]:
    """Return the credentials and region that our stores in S3 use now, for other clients of the same bucket.

    Keys: "access_key_id", "secret_access_key", "session_token", "region", those that are known. Raises as
    `ObjectStore`.
    """
    from histgen_lib.storage._s3 import credentials

    return credentials()


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
