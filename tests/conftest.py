"""Fixtures shared by every suite."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("histgen", deadline=None)  # how long an example takes says nothing about a promise
settings.load_profile("histgen")

pytest_plugins = [
    "servers.kafka_server",
    "servers.kafka_tls",
    "servers.s3_servers",
    "servers.triton_server",
]
"""One module of tests/servers/ a line."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Benchmarks take a quiet machine, soaks take long; `make bench` and `make chaos` ask for them."""
    parser.addoption("--run-bench", action="store_true", help="run the benchmarks of tests/bench")
    parser.addoption("--run-soak", action="store_true", help="run the long tests of tests/chaos, too")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the benchmarks out of an ordinary run: they measure, they check nothing."""
    return True if collection_path.name == "bench" and not config.getoption("--run-bench") else None


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Find the folder with reference numbers, real slides and real reports that may lie beside a checkout.

    Tests that need it say so in the run's summary when it is absent; nothing shipped depends on it.
    """
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared folder beside this checkout: parity and real-slide checks are left out")
    return folder


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """Return a tiny model with random weights; read it, do not change it."""
    import tiny_model

    return tiny_model.tiny_model()


@pytest.fixture
def own_model_dir(model_dir: Path, tmp_path: Path) -> Path:
    """Copy the tiny model for a test that changes it."""
    return Path(shutil.copytree(model_dir, tmp_path / "model"))


@pytest.fixture(scope="session")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small sound slide."""
    import tiny_model

    return tiny_model.write_slide(tmp_path_factory.mktemp("slides") / "sound.tif")
