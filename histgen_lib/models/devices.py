"""What a device needs before a model runs on it: the one place that checks, and says what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histgen_lib.errors import FatalError
from histgen_lib.models.serving import Device, Precision

if TYPE_CHECKING:
    import torch

_NEEDS = "A GPU needs NVIDIA's driver and {}; `nvidia-smi` shows whether the driver works."

Provider = tuple[str, Mapping[str, Any]]
"""An execution provider of ONNX Runtime, and its options."""


def unavailable(engine: str, needed: str) -> FatalError:
    """Make the error for an engine that cannot compute on a GPU here: FatalError("device-unavailable")."""
    return FatalError(
        "device-unavailable", f"{engine} cannot compute on a GPU here.", hint=_NEEDS.format(needed)
    )


def torch_device(device: Device) -> torch.device:
    """Return torch's name of a device. Raises FatalError: "device-unavailable", "extra-train-missing"."""
    try:
        import torch
    except ImportError as error:
        raise FatalError(
            "extra-train-missing",
            "Computing on a GPU, or in another type than float32, needs torch, which is not installed.",
            hint="Install the extra 'train', or run the model on the CPU in float32.",
        ) from error
    if device == "cuda" and not torch.cuda.is_available():
        raise unavailable("torch", "a torch built for CUDA")
    return torch.device(device)


def torch_dtype(precision: Precision) -> torch.dtype:
    """Return torch's number type of that name."""
    import torch

    dtype: torch.dtype = getattr(torch, precision)
    return dtype


def onnx_providers(device: Device, engines: Path | None = None) -> list[Provider]:
    """Return the providers with which ONNX Runtime computes on a device, best first.

    `engines`: a folder where its TensorRT provider, if there is one, may keep the engines that it builds;
    the first run then takes minutes. Raises FatalError("device-unavailable").
    """
    import onnxruntime

    cpu: Provider = ("CPUExecutionProvider", {})
    if device == "cpu":
        return [cpu]
    available = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in available:
        raise no_cuda_provider()
    found: list[Provider] = [("CUDAExecutionProvider", {}), cpu]
    if engines is not None and "TensorrtExecutionProvider" in available:
        kept = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(engines)}
        found.insert(0, ("TensorrtExecutionProvider", kept))
    return found


def no_cuda_provider() -> FatalError:
    """Make the error for an ONNX Runtime that computes on the CPU alone: as `unavailable`."""
    return unavailable("ONNX Runtime", "the package onnxruntime-gpu with the CUDA libraries of its version")
