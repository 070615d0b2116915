"""A missing tritonserver, or a wrong numpy, is reported before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from histgen_lib.errors import FatalError
from histgen_lib.stack.triton import TritonProcess

ROOT = Path(__file__).resolve().parents[3]


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
def test_a_numpy_that_makes_answers_empty_is_named(tmp_path: Path, version: str) -> None:
    assert code_of(make_home(tmp_path, version), tmp_path) == "triton-numpy"


def test_the_servers_environment_has_our_versions_of_what_computes() -> None:
    """The same version of ONNX Runtime gives the same bits in the server and in a worker's own process."""
    server, ours = (versions(ROOT / name) for name in ("deploy/triton/requirements.txt", "constraints.txt"))
    shared = set(server) & set(ours) - {"numpy"}
    assert shared == {"onnxruntime", "tokenizers"}
    assert {name: server[name] for name in shared} == {name: ours[name] for name in shared}
    assert server["numpy"].startswith("1.26.")


def versions(requirements: Path) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in requirements.read_text().splitlines()]
    return dict(line.split("==", 1) for line in lines if line)
