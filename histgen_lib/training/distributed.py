"""Processes that train one model together, as torchrun starts them; a single process is the plain case."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.devices import torch_device


@dataclass(frozen=True)
class Group:
    """A process's place: `rank` among `world` processes, computing on `device`."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Wrap `model` so that gradients are averaged over all processes."""
        if self.world == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Published checkpoints carry weights that do not affect the loss.
        return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=True)

    def share(self, values: list[float]) -> list[float]:
        """Return rank 0's `values` in every process."""
        if self.world == 1:
            return values
        held = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.broadcast(held, src=0)
        return [float(value) for value in held.tolist()]

    def mean(self, value: float) -> float:
        """Average `value` over all processes."""
        if self.world == 1:
            return value
        held = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(held)
        return float(held) / self.world


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """Join the group that torchrun's environment describes (gloo on CPUs, nccl on GPUs), and leave it.

    FatalError("device-unavailable") without a usable GPU, InvalidInputError("training-device-missing") if
    torch cannot compute on another device.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    place = _device(device, local)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world == 1:
        yield Group(0, 1, place)
        return
    # The first optimizer step imports dynamo; imported while a group exists, it would hold it forever.
    import_module("torch._dynamo")
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Group(rank, world, place)
    finally:
        gc.collect()  # a group still referenced keeps threads that abort the interpreter at exit
        distributed.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name == "cuda":
        torch_device("cuda")
    try:
        place = torch.device(f"{name}:{local_rank}" if name == "cuda" else name)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidInputError(
            "training-device-missing",
            f"torch cannot compute on the device {name!r} here ({str(error).splitlines()[0]}).",
            hint="Use --device cpu, or install a torch built for this machine's GPU.",
        ) from error
    return place
