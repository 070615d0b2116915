"""The tile encoder by torch: on a GPU, or on the CPU in another number type than float32."""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histgen_lib.models.devices import torch_device, torch_dtype
from histgen_lib.models.histgen.checkpoint import load_tile_encoder
from histgen_lib.models.sending import Sender
from histgen_lib.models.serving import Compute, ServedFolder, Tensors
from histgen_lib.models.tile_encoder.network import TileNetwork
from histgen_lib.models.tile_encoder.serving import batch_size, batches


class TorchTileRunner:
    """Encodes tiles in batches of fixed sizes. Calls from several threads take turns.

    Tiles travel as they are, features come back as float16.
    """

    def __init__(self, network: TileNetwork, device: torch.device, dtype: torch.dtype) -> None:
        # Convolutions are fastest in this layout; attention does not care.
        self._network = network.eval().to(device, dtype).to(memory_format=torch.channels_last)
        self._device = device
        self._sender = Sender(device)
        self._lock = Lock()

    def infer(self, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Encode tiles; see `TileRunner.infer`. Raises also MemoryError."""
        parts = batches(tensors["tiles"])
        try:
            with self._lock, torch.inference_mode():
                features = [self._encode(part) for part in parts]
                return {"features": torch.cat(features).cpu().numpy()}
        except torch.cuda.OutOfMemoryError as error:
            raise MemoryError from error

    def _encode(self, tiles: npt.NDArray[np.uint8]) -> Tensor:
        batch = torch.zeros(batch_size(len(tiles)), *tiles.shape[1:], dtype=torch.uint8, device=self._device)
        self._sender.send_into(batch, tiles)
        features: Tensor = self._network(batch)
        return features[: len(tiles)].half()


def torch_runner(folder: ServedFolder, compute: Compute) -> TorchTileRunner:
    """Load a model folder's tile encoder from its weights.

    Raises FatalError: "device-unavailable", and as `load_tile_encoder`.
    """
    device = torch_device(compute.device)
    return TorchTileRunner(load_tile_encoder(folder.path), device, torch_dtype(compute.precision))
