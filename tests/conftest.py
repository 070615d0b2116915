"""Fixtures shared by every suite."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("histgen", deadline=None)  # the time an example takes proves nothing
settings.load_profile("histgen")

pytest_plugins = [
    "servers.kafka_server",
    "servers.kafka_tls",
    "servers.s3_servers",
    "servers.triton_server",
]
"""The modules of tests/servers/."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options for benchmarks, which need a quiet machine, and soak tests, which take long."""
    parser.addoption("--run-bench", action="store_true", help="run the benchmarks of tests/bench")
    parser.addoption("--reference", default="", help="a copy of the HistGen repository")
    parser.addoption("--run-soak", action="store_true", help="run the long tests of tests/chaos as well")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave benchmarks out of an ordinary run: they measure and check nothing."""
    return True if collection_path.name == "bench" and not config.getoption("--run-bench") else None


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Return the folder of reference numbers, real slides and reports beside this checkout, if it exists.

    Without it, tests that need it are skipped; nothing shipped depends on it.
    """
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared folder beside this checkout: parity and real-slide checks are skipped")
    return folder


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """Return a tiny model with random weights, shared by all tests: do not change it."""
    import tiny_model

    return tiny_model.tiny_model()


@pytest.fixture
def own_model_dir(model_dir: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny model that the test may change."""
    return Path(shutil.copytree(model_dir, tmp_path / "model"))


@pytest.fixture(scope="session")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small valid slide."""
    import tiny_model

    return tiny_model.write_slide(tmp_path_factory.mktemp("slides") / "sound.tif")
