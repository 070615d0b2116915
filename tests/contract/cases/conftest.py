"""Each kind of case index: in memory, and LanceDB's in a folder and in buckets of two S3 servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from histgen_lib.retrieval import CaseIndex, CaseIndexSettings, open_case_index
from histgen_lib.storage import StorageSettings
from histgen_lib.testing import MemoryCaseIndex

Opener = Callable[[], CaseIndex]


@pytest.fixture(params=["memory", "file", "file, resident", "moto", "moto, resident", "s3proxy"])
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Return a function that opens the same index as another process would."""
    kind, _, resident = str(request.param).partition(", ")
    if kind == "memory":
        index = MemoryCaseIndex()
        yield lambda: index
        return
    storage = StorageSettings(f"file:{tmp_path / 'index'}")
    if kind != "file":
        server = request.getfixturevalue(f"{kind}_server")
        storage = server.settings(server.make_bucket(), "some/prefix")
    opened: list[CaseIndex] = []

    def open_one() -> CaseIndex:
        opened.append(open_case_index(CaseIndexSettings(storage, resident=bool(resident))))
        return opened[-1]

    yield open_one
    for index in opened:
        index.close()


@pytest.fixture
def index(open_again: Opener) -> CaseIndex:
    """Return an empty index."""
    return open_again()
