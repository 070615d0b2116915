"""Arrays on their way to a device, by torch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Sender:
    """Copies arrays to a device; to a GPU through two page-locked buffers: one is filled, one is read."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers = [_Staging(), _Staging()] if device.type == "cuda" else []

    def send(self, values: npt.NDArray[Any], dtype: torch.dtype | None = None) -> Tensor:
        """Return the values on the device, converted before they travel."""
        rows = _tensor(values)
        target = torch.empty(rows.shape, dtype=dtype or rows.dtype, device=self._device)
        self.send_into(target, values)
        return target

    def send_into(self, target: Tensor, values: npt.NDArray[Any]) -> None:
        """Write the values into the first rows of a tensor on the device."""
        rows = _tensor(values)
        if not self._buffers:
            target[: len(rows)] = rows
            return
        self._buffers.reverse()
        self._buffers[0].send(target[: len(rows)], rows)


class _Staging:
    """Page-locked memory, from which a GPU copies while the host goes on."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._read = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def send(self, target: Tensor, rows: Tensor) -> None:
        self._read.synchronize()  # the device may still be reading what was here before
        if len(self._memory) < target.nbytes:
            self._memory = torch.empty(target.nbytes, dtype=torch.uint8, pin_memory=True)
        staged = self._memory[: target.nbytes].view(target.dtype).view(target.shape)
        staged.copy_(rows)
        target.copy_(staged, non_blocking=True)
        self._read.record()


def _tensor(values: npt.NDArray[Any]) -> Tensor:
    """Return an array as a tensor that is only read here, over the same memory.

    Torch knows no read-only tensors and warns of such arrays, which bags and requests are. A copy of 100,000
    tiles' features would take longer than their way to the device.
    """
    if not values.flags.writeable:
        described = values.__array_interface__ | {"data": (values.ctypes.data, False)}
        values = np.asarray(SimpleNamespace(__array_interface__=described, kept=values))
    return torch.from_numpy(values)
