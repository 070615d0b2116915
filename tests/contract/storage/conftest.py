"""One store, four ways: a folder, memory, and buckets of two S3 servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored_again import InMemory, open_again

from histgen_lib.storage import ObjectStore, StorageSettings


@pytest.fixture(params=["file", "memory", "moto", "s3proxy"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> StorageSettings:
    """Describe an empty store; S3 ones send parts of 5 MiB, the least that S3 takes."""
    if kind == "file":
        return StorageSettings(f"file:{tmp_path / 'store'}")
    if kind == "memory":
        return InMemory("memory:")
    server = request.getfixturevalue(f"{kind}_server")
    return server.settings(server.make_bucket(), "some/prefix", multipart_bytes=5 << 20)


@pytest.fixture
def store(settings: StorageSettings) -> ObjectStore:
    return open_again(settings)
