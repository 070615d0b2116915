"""From an address to the server behind it."""

from __future__ import annotations

from pathlib import Path

from histgen_lib.inference import InferenceServer
from histgen_lib.models.histgen.folder import open_model_folder
from histgen_lib.secret import given_secret

IN_PROCESS = "onnx"


def open_inference(
    url: str,
    model_folder: Path | str,
    threads: int | None = None,
    *,
    deadline_s: float = 120.0,
    secret_path: Path | None = None,
) -> InferenceServer:
    """Open "onnx" (this process; `threads` bounds its cores), "triton://host:port" or "triton:///socket".

    `deadline_s`: what a call of another process may take. It has to cover the largest slide: a call that is
    given up for its length takes as long when it is tried again, and holds up all that wait behind it.

    Nothing is connected or loaded before it is used. A Triton server has to serve this very model folder, or
    calls raise FatalError("inference-other-model"). `secret_path`: the file with what the server wants to
    hear (see `TritonServer`). Raises FatalError: "inference-url", "model-missing", "model-config",
    "secret-exposed", "secret-unusable".
    """
    if url == IN_PROCESS:
        from histgen_lib.inference._onnx import OnnxServer

        return OnnxServer(model_folder, threads=threads)
    from histgen_lib.inference._triton import TritonServer

    secret = given_secret(secret_path) if secret_path else None
    digest = open_model_folder(model_folder).digest
    return TritonServer(url, version=digest, secret=secret, deadline_s=deadline_s)


def is_live(url: str) -> bool:
    """Ask a Triton, once and for a moment, whether it lives. Raises FatalError("inference-url")."""
    from histgen_lib.inference._connection import CallFailedError, Connection

    connection = Connection(url)
    try:
        return connection.live()
    except CallFailedError:
        return False
    finally:
        connection.close()
