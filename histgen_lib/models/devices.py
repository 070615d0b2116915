"""The device that torch computes on. Needs torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from histgen_lib.errors import FatalError
from histgen_lib.models.serving import Device


def torch_device(name: Device) -> torch.device:
    """Return the device of that name. Raises FatalError("device-unavailable") if it cannot compute."""
    if name == "cuda" and not torch.cuda.is_available():
        built = "finds no GPU" if torch.version.cuda else "is built without CUDA"
        raise FatalError(
            "device-unavailable",
            f"--device cuda needs an NVIDIA GPU, but torch {torch.__version__} {built}.",
            hint="Use --device cpu; or check nvidia-smi, and install the torch that fits its CUDA version.",
        )
    return torch.device(name)


@contextmanager
def device_memory(what: str) -> Iterator[None]:
    """Turn torch's error for a full GPU into FatalError("device-memory"); `what` needed the memory."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise FatalError(
            "device-memory",
            f"The GPU has too little free memory for {what}.",
            hint="Stop what else uses the GPU (nvidia-smi lists it), or use --precision float16.",
        ) from error
