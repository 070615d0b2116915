"""Who runs the models of a local stack: a Triton of its own, an existing one, or each worker for itself."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from histgen_lib.client.home import StackHome
from histgen_lib.errors import FatalError
from histgen_lib.stack.stubs import StubWatch
from histgen_lib.stack.triton import TritonProcess

CALM_S = 20.0
"""How often to check models that answer; one whose process ended is reloaded within a second."""

if TYPE_CHECKING:
    from histgen_lib.inference import Supervisor


@dataclass(frozen=True)
class Inference:
    """`url`: for the services. `process`: the server to start, if any. `note`: the choice, for people."""

    url: str
    note: str
    process: TritonProcess | None = None

    def supervisor(self) -> Supervisor | None:
        """Make what reloads a model that does not answer; None for a Triton that is not ours."""
        from histgen_lib.inference import Supervisor

        triton = self.process
        if triton is None:
            return None
        return Supervisor(
            triton.url,
            triton.models,
            calm_s=CALM_S,
            disturbed=StubWatch(lambda: triton.pid).disturbed,
            on_hung=partial(_end_stubs, triton),
        )


def choose_inference(choice: str, model: Path, home: StackHome, triton_home: Path) -> Inference:
    """Choose by "auto", "onnx", "triton" or a Triton's address; for one of ours, export the model.

    Raises FatalError("inference-stated") for anything else, and what the export raises.
    """
    if choice.startswith("triton://"):
        return Inference(choice, f"Triton at {choice.removeprefix('triton://')}")
    if choice == "onnx":
        return Inference("onnx", "ONNX Runtime in each worker")
    if choice == "auto" and not has_triton(triton_home):
        return Inference("onnx", "ONNX Runtime in each worker; deploy/setup.sh triton installs tritonserver")
    if choice not in ("auto", "triton"):
        raise FatalError(
            "inference-stated",
            "The choice of inference server is not valid.",
            hint="--inference takes auto, onnx, triton or triton://host:port.",
        )
    repository = _export(model, home.folder / "model_repository")
    process = TritonProcess(repository, triton_home, log=home.log("triton"), run_dir=home.run_dir)
    return Inference(process.url, "tritonserver on this machine", process)


def has_triton(triton_home: Path) -> bool:
    """Return whether tritonserver is installed."""
    return any(triton_home.glob("lib/python3*/site-packages/pytriton/tritonserver"))


def _end_stubs(triton: TritonProcess, model: str) -> None:
    """End the processes of a model that hangs, so that it can be reloaded."""
    for pid in triton.stub_pids(model):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _export(model: Path, repository: Path) -> Path:
    """Export into an empty folder, so that no other model left there is served."""
    from histgen_lib.export import export_local

    shutil.rmtree(repository, ignore_errors=True)
    return export_local(model, repository, reference=True)
