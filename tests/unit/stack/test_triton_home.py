"""Where tritonserver is missing, or has the wrong numpy, that is said before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from histgen_lib.errors import FatalError
from histgen_lib.stack.triton import TritonProcess


def make_home(folder: Path, numpy: str) -> Path:
    packages = folder / "lib" / "python3.11" / "site-packages"
    backend = packages / "pytriton" / "tritonserver" / "backends" / "python"
    backend.mkdir(parents=True)
    (backend / "triton_python_backend_stub").touch()
    (packages / f"numpy-{numpy}.dist-info").mkdir()
    return folder


def code_of(home: Path, repository: Path) -> str:
    with pytest.raises(FatalError) as caught:
        TritonProcess(repository, home, log=repository / "log").start()
    assert "deploy/setup.sh triton" in caught.value.hint
    return caught.value.code


def test_a_missing_server_is_named(tmp_path: Path) -> None:
    assert code_of(tmp_path / "nowhere", tmp_path) == "triton-missing"


@pytest.mark.parametrize("version", ["2.0.0", "2.4.6"])
def test_a_numpy_with_which_answers_are_empty_is_named(tmp_path: Path, version: str) -> None:
    assert code_of(make_home(tmp_path, version), tmp_path) == "triton-numpy"
