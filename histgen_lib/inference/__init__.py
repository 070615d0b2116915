"""The port to whatever runs the models: named tensors in, named tensors out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from histgen_lib.lazy import lazily
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.serving import ModelMetadata, Tensors, TensorSpec
from histgen_lib.secret import given_secret

if TYPE_CHECKING:
    from histgen_lib.inference._onnx import OnnxServer
    from histgen_lib.inference._supervisor import Supervisor
    from histgen_lib.inference._triton import TritonServer

__all__ = [
    "InferenceServer",
    "ModelMetadata",
    "OnnxServer",
    "Supervisor",
    "TensorSpec",
    "Tensors",
    "TritonServer",
    "is_live",
    "models_of",
    "open_inference",
]

IN_PROCESS = "onnx"


class InferenceServer(Protocol):
    """Runs models by name.

    `histgen_lib.models.serving.SERVED` lists the models; the `serving.py` of each states its tensors. A
    server has all of them, or those for which its model folder has files.

    Equal tensors give equal answers, bit for bit, whatever else is asked at the same time, on however many
    threads, and on every server with the same version of ONNX Runtime and the same kind of processor. Raises
    FatalError("inference-model-unknown") for another name, InvalidInputError for tensors that do not fit and
    ("inference-memory") when there is too little memory for them; TransientError while a server is
    unavailable.
    """

    def infer(self, model: str, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Run `model` once."""
        ...

    def warm(self, model: str) -> None:
        """Do what the first request would otherwise wait for, if it is quick; raises as `infer`."""
        ...

    def ready(self, model: str) -> bool:
        """Return whether `infer` would find `model` now; never raises."""
        ...

    def metadata(self, model: str) -> ModelMetadata:
        """Describe `model`."""
        ...

    def engine(self, model: str) -> str:
        """Name what computes `model`: "onnx", or "triton" and its backend if that is known. Asks nobody."""
        ...


def open_inference(
    url: str,
    model_folder: Path | str,
    threads: int | None = None,
    *,
    deadline_s: float = 120.0,
    secret_path: Path | None = None,
) -> InferenceServer:
    """Open "onnx" (this process; `threads` bounds its cores), "triton://host:port" or "triton:///socket".

    `deadline_s`: the longest that a call to another process may take. It has to cover the largest slide: a
    call that is given up for its length takes as long when it is retried, and holds up all that wait behind
    it.

    Nothing is connected or loaded before it is used. A Triton server has to serve this very model folder, or
    calls raise FatalError("inference-other-model"). `secret_path`: the file with the server's secret (see
    `TritonServer`). Raises FatalError: "inference-url", "model-missing", "model-config", "secret-exposed",
    "secret-unusable".
    """
    if url == IN_PROCESS:
        from histgen_lib.inference._onnx import OnnxServer

        return OnnxServer(model_folder, threads=threads)
    from histgen_lib.inference._triton import TritonServer

    secret = given_secret(secret_path) if secret_path else None
    digest = open_model_folder(model_folder).digest
    return TritonServer(url, version=digest, secret=secret, deadline_s=deadline_s)


def is_live(url: str) -> bool:
    """Ask a Triton server, once and briefly, whether it is alive. Raises FatalError("inference-url")."""
    from histgen_lib.inference._connection import CallFailedError, Connection

    connection = Connection(url)
    try:
        return connection.live()
    except CallFailedError:
        return False
    finally:
        connection.close()


def models_of(url: str, secret: str | None = None) -> list[str]:
    """Ask a Triton server, once, which models it has, loaded or not.

    Raises TransientError("inference-unavailable"); FatalError: "inference-url", "inference-secret".
    """
    from histgen_lib.inference._connection import CallFailedError, Connection

    connection = Connection(url, secret)
    try:
        return sorted(connection.models())
    except CallFailedError as failed:
        raise failed.error from failed
    finally:
        connection.close()


__getattr__ = lazily(
    __name__,
    {"_onnx": "OnnxServer", "_supervisor": "Supervisor", "_triton": "TritonServer"},
)
"""Where the rest is defined: ONNX Runtime and gRPC are loaded only by those who use them."""
