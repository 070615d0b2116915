"""Fixtures shared by every suite."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Benchmarks take a quiet machine; `make bench` asks for them."""
    parser.addoption("--run-bench", action="store_true", help="run the benchmarks of tests/bench")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the benchmarks out of an ordinary run: they measure, they check nothing."""
    return True if collection_path.name == "bench" and not config.getoption("--run-bench") else None


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with reference numbers, real slides and real reports that may lie beside a checkout.

    Tests that need it say so in the run's summary when it is absent; nothing shipped depends on it.
    """
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared folder beside this checkout: parity and real-slide checks are left out")
    return folder
