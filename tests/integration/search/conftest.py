"""A search service over twelve cases of four kinds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from planted_cases import PlantedCases, keep_bag
from search_process import SearchProcess


@pytest.fixture(scope="session")
def cases() -> PlantedCases:
    return PlantedCases()


@pytest.fixture(scope="module")
def search(cases: PlantedCases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchProcess]:
    """Run the service for the tests of a module, which leave the twelve cases as they are."""
    running = SearchProcess(tmp_path_factory.mktemp("search"), cases.model)
    index = running.open_index()
    index.put(cases.entries())
    index.close()
    keep_bag(running.store, cases.slide("k1-0", 1, 0).bag)
    keep_bag(running.store, cases.slide("new", 2, 77).bag)
    yield running.start()
    running.kill()
