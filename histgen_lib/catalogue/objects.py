"""Objects to be written, and several of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

_WRITERS = 4

JSON, WEBP, PARQUET = "application/json", "image/webp", "application/vnd.apache.parquet"


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
