"""What the jobs over the object store share: what they answer, and how they look for what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from histgen_lib.errors import InvalidInputError
from histgen_lib.storage import ObjectStore

T = TypeVar("T")

_WRITERS = 4

JSON, TEXT, HTML = "application/json", "text/plain; charset=utf-8", "text/html; charset=utf-8"
WEBP, PARQUET = "image/webp", "application/vnd.apache.parquet"


@dataclass(frozen=True)
class Made(Generic[T]):
    """What is to be told of a job that is done, and what to count: a worker's measures."""

    data: T
    measures: Mapping[str, float] = field(default_factory=dict)


def read_object(store: ObjectStore, key: str) -> bytes | None:
    """Read an object; None if there is none."""
    try:
        return store.get(key)
    except InvalidInputError as error:
        if error.code != "object-missing":
            raise
        return None


@dataclass(frozen=True)
class StoredFile:
    """An object to be written, once."""

    key: str
    data: bytes
    content_type: str


def store_files(store: ObjectStore, files: Sequence[StoredFile]) -> list[bool]:
    """Write objects, the last one only when all others are there; say of each whether it is new.

    A store answers slowly, and each answer is waited for: so the others are written side by side.
    """
    *others, last = files
    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="histgen-store") as writers:
        done = list(writers.map(lambda file: _put(store, file), others))
    return [*done, _put(store, last)]


def _put(store: ObjectStore, file: StoredFile) -> bool:
    return store.put(file.key, file.data, content_type=file.content_type)
