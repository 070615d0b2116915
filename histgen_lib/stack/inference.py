"""Who runs the models of a local stack: a Triton of its own, one that is there, or each worker for itself."""

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
"""How often models that answer are asked again; one whose process ended is reloaded within a second."""

if TYPE_CHECKING:
    from histgen_lib.inference import Supervisor


@dataclass(frozen=True)
class Inference:
    """`url`: what services take. `process`: to be started, if any. `note`: the choice, for people."""

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


def choose_inference(stated: str, model: Path, home: StackHome, triton_home: Path) -> Inference:
    """Choose by "auto", "onnx", "triton" or a Triton's address; for one of ours the model is exported.

    Raises FatalError("inference-stated") for anything else, and what the export raises.
    """
    if stated.startswith("triton://"):
        return Inference(stated, f"Triton at {stated.removeprefix('triton://')}")
    if stated == "onnx":
        return Inference("onnx", "ONNX Runtime in each worker")
    if stated == "auto" and not has_triton(triton_home):
        return Inference("onnx", "ONNX Runtime in each worker; deploy/setup.sh triton installs tritonserver")
    if stated not in ("auto", "triton"):
        raise FatalError(
            "inference-stated",
            "It cannot be told what shall run the models.",
            hint="--inference takes auto, onnx, triton or triton://host:port.",
        )
    repository = _export(model, home.folder / "model_repository")
    process = TritonProcess(repository, triton_home, log=home.log("triton"))
    return Inference(process.url, "tritonserver on this machine", process)


def _end_stubs(triton: TritonProcess, model: str) -> None:
    """End the processes of a model that hangs, so that it can be loaded anew."""
    for pid in triton.stub_pids(model):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def has_triton(triton_home: Path) -> bool:
    """Whether tritonserver is installed."""
    return any(triton_home.glob("lib/python3*/site-packages/pytriton/tritonserver"))


def _export(model: Path, repository: Path) -> Path:
    """Write the repository anew: what another model left there must not be served."""
    from histgen_lib.export import export_local

    shutil.rmtree(repository, ignore_errors=True)
    return export_local(model, repository, reference=True)
