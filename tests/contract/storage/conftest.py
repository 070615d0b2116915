"""Each kind of store: a folder, memory, and buckets of two S3 servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_openers import InMemory, open_again

from histgen_lib.storage import ObjectStore, StorageSettings


@pytest.fixture(params=["file", "memory", "moto", "s3proxy"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> StorageSettings:
    """Return the settings of an empty store; S3 stores send parts of 5 MiB, the minimum."""
    if kind == "file":
        return StorageSettings(f"file:{tmp_path / 'store'}")
    if kind == "memory":
        return InMemory("memory:")
    server = request.getfixturevalue(f"{kind}_server")
    return server.settings(server.make_bucket(), "some/prefix", multipart_bytes=5 << 20)


@pytest.fixture
def store(settings: StorageSettings) -> ObjectStore:
    return open_again(settings)
