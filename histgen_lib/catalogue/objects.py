"""What the jobs over the object store share: what they answer, and how they look for what is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

_WRITERS = 4

JSON, TEXT, HTML = "application/json", "text/plain; charset=utf-8", "text/html; charset=utf-8"
WEBP, PARQUET = "image/webp", "application/vnd.apache.parquet"


@dataclass(frozen=True)
class Made(Generic[T]):
    """What is to be told of a job that is done, and what to count: a worker's measures."""

    data: T
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredFile:
    """An object to be written, once."""

    key: str
    data: bytes
    content_type: str


def put_side_by_side(put: Callable[[StoredFile], bool], files: Sequence[StoredFile]) -> list[bool]:
    """Write objects; say of each what `put` says. A store answers slowly, and each answer is waited for."""
    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="histgen-store") as writers:
        return list(writers.map(put, files))
