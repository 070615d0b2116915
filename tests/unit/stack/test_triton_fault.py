"""Why a tritonserver did not come up."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from histgen_lib.stack.triton import TritonProcess

_ERROR = (
    'TritonModelException: histgen-error:{"kind": "FatalError", "code": "model-onnx", '
    '"message": "It cannot be loaded.", "hint": "Export it again."}'
)


@pytest.mark.parametrize("exit_code", [1, -signal.SIGSEGV])
def test_the_error_of_a_model_is_the_reason_even_if_the_server_crashes_over_it(
    tmp_path: Path, exit_code: int
) -> None:
    log = tmp_path / "triton.log"
    log.write_text(_ERROR.replace('"', '\\"'))
    error = TritonProcess(tmp_path, tmp_path, log=log)._failed(exit_code)
    assert error.code == "model-onnx"
