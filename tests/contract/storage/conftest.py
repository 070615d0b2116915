"""One store, three ways: a folder, and buckets of two S3 servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from histgen_lib.storage import ObjectStore, StorageSettings, open_store


@pytest.fixture(params=["file", "moto", "s3proxy"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> StorageSettings:
    """Describe an empty store; S3 ones send parts of 5 MiB, the least that S3 takes."""
    if kind == "file":
        return StorageSettings(f"file:{tmp_path / 'store'}")
    server = request.getfixturevalue(f"{kind}_server")
    return server.settings(server.make_bucket(), "some/prefix", multipart_bytes=5 << 20)


@pytest.fixture
def store(settings: StorageSettings) -> ObjectStore:
    return open_store(settings)
