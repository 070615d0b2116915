"""The port to whatever runs the models: named tensors in, named tensors out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from histgen_lib.lazy import lazily

if TYPE_CHECKING:
    from histgen_lib.inference._onnx import OnnxServer
    from histgen_lib.inference._open import is_live, open_inference
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
    "open_inference",
]


Tensors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: `dtype` a NumPy name (alternatives joined by "|"), -1 in `shape` for any size."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class ModelMetadata:
    """What a model takes and gives; `version` is a digest of what decides its outputs."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class InferenceServer(Protocol):
    """Runs models by name.

    "tile_encoder": {"tiles": uint8[B, S, S, 3] RGB} -> {"features": float16[B, D]}.
    "histgen": one slide's {"features": float16|float32[N, D], "xy": int32[N, 2], …} -> {"tokens": int32[T],
    "logprobs": float32[T], "evidence": float32[T, N], "score": float32[1]}; see
    `histgen_lib.models.histgen.runtime.HistGenRuntime.infer` for the optional inputs.

    Equal tensors give equal answers, bit for bit, whatever else is asked at the same time, on however many
    threads, and on every server with the same version of ONNX Runtime and the same kind of processor. Raises
    FatalError("inference-model-unknown") for another name, InvalidInputError for tensors that do not fit,
    and ("inference-memory") where memory does not suffice for them; TransientError where a server is away.
    """

    def infer(self, model: str, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Run `model` once."""
        ...

    def warm(self, model: str) -> None:
        """Do what the first request would else wait for, and nothing that takes long; raises as `infer`."""
        ...

    def ready(self, model: str) -> bool:
        """Tell whether `infer` would find `model` now; never raises."""
        ...

    def metadata(self, model: str) -> ModelMetadata:
        """Describe `model`."""
        ...


__getattr__ = lazily(
    __name__,
    {
        "_onnx": "OnnxServer",
        "_open": "is_live open_inference",
        "_supervisor": "Supervisor",
        "_triton": "TritonServer",
    },
)
"""Where what is not defined here lives: ONNX Runtime and gRPC are loaded by those who use them."""
