"""A real tritonserver for tests."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from histgen_lib.export import export_local
from histgen_lib.stack.triton import TritonProcess

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def triton_home() -> Path:
    """Return tritonserver's environment, set up once (by one test session at a time)."""
    with (ROOT / "deploy" / "triton" / "requirements.txt").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([str(ROOT / "deploy" / "setup.sh"), "triton"], check=True)
    return ROOT / ".triton"


@pytest.fixture(scope="session")
def triton(
    triton_home: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonProcess]:
    """Run one server with the tiny model (`model_dir`) for the whole session; leave it running."""
    place = tmp_path_factory.mktemp("triton")
    server = TritonProcess(
        export_local(model_dir, place / "repository"), triton_home, log=place / "triton.log"
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def start_triton(
    triton_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path], TritonProcess]]:
    """Start a separate server on a repository; it ends with the module's tests, even if they fail."""
    with ExitStack() as running:

        def start(repository: Path) -> TritonProcess:
            place = tmp_path_factory.mktemp("own-triton")
            server = TritonProcess(repository, triton_home, log=place / "triton.log")
            running.callback(server.kill)
            server.start()
            return server

        yield start
