"""The report model of a model folder by torch: on a GPU, or on the CPU in another type than float32."""

from __future__ import annotations

import torch

from histgen_lib.models.devices import torch_device, torch_dtype
from histgen_lib.models.histgen.batches import BatchedRunner, batched_runner
from histgen_lib.models.histgen.checkpoint import load_model
from histgen_lib.models.histgen.torch_engine import TorchEngine
from histgen_lib.models.serving import Compute, ServedFolder


def torch_runner(folder: ServedFolder, compute: Compute) -> BatchedRunner:
    """Load a model folder's report network from its weights.

    Raises FatalError: "device-unavailable", and as `load_model`.
    """
    device = torch_device(compute.device)
    if device.type == "cpu" and compute.threads is not None:
        torch.set_num_threads(compute.threads)
    engine = TorchEngine(load_model(folder.path), device, torch_dtype(compute.precision))
    return batched_runner(folder, engine)
