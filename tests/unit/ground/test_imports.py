"""Importing is cheap, and a base install (no torch) can run everything that reads a slide."""

import statistics
import subprocess
import sys

import pytest

_TIMED_IMPORT = """
import time
start = time.perf_counter()
import histgen_lib
print(time.perf_counter() - start)
"""

_WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import {module}
assert not {{name for name in sys.modules if name.split(".")[0] in ("timm", "tensorboard")}}
"""


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout


def test_importing_the_library_takes_under_100_ms() -> None:
    """The one figure the design promises: it guards against a heavy import in a package's __init__."""
    seconds = [float(_python(_TIMED_IMPORT)) for _ in range(5)]
    assert statistics.median(seconds) < 0.1


@pytest.mark.parametrize(
    "module",
    [
        "histgen_lib.cli",
        "histgen_lib.slides",
        "histgen_lib.bags",
        "histgen_lib.text",
        "histgen_lib.inference",
        "histgen_lib.models.histgen.serving",
        "histgen_lib.pipeline",
        "histgen_lib.reports",
        "histgen_lib.synth",
    ],
)
def test_the_room_imports_without_torch(module: str) -> None:
    _python(_WITHOUT_TORCH.format(module=module))


@pytest.mark.parametrize(
    "module", ["client.connection", "catalogue.index", "catalogue.overview", "catalogue.replay"]
)
def test_looking_up_where_slides_stand_loads_no_pixels(module: str) -> None:
    """A command that only asks should answer at once; `up` and the gateway run for months."""
    heavy = _python(
        f"import sys, histgen_lib.{module}\n"
        "print(*sorted({'cv2', 'numpy', 'onnxruntime', 'pydantic', 'PIL'} & set(sys.modules)))"
    )
    assert heavy.split() == []


@pytest.mark.parametrize(
    "module",
    [
        "histgen_lib.inference",
        "histgen_lib.inference.shared_memory",
        "histgen_lib.models.folder",
        "histgen_lib.models.histgen.serving",
        "histgen_lib.models.tile_encoder.serving",
        "histgen_lib.stack.stubs",
    ],
)
def test_onnx_runtime_and_grpc_are_loaded_only_where_models_run_or_are_asked(module: str) -> None:
    heavy = ["onnxruntime", "grpc", "tritonclient"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    assert _python(code).strip() == "[]"
