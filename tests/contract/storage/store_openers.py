"""Open any kind of store, including one in memory, repeatedly."""

from __future__ import annotations

from dataclasses import dataclass, field

from histgen_lib.storage import ObjectStore, StorageSettings, open_store, store_for_uri
from histgen_lib.testing import MemoryStore


@dataclass(frozen=True)
class InMemory(StorageSettings):
    """Settings of a store in this process."""

    store: MemoryStore = field(default_factory=MemoryStore)


def open_again(settings: StorageSettings) -> ObjectStore:
    """Open a store as another process would."""
    return settings.store if isinstance(settings, InMemory) else open_store(settings)


def find_by_uri(uri: str, settings: StorageSettings) -> tuple[ObjectStore, str]:
    """Return the store and key of an object's URI."""
    if isinstance(settings, InMemory):
        return settings.store, uri.removeprefix("memory:///")
    return store_for_uri(uri, settings)
