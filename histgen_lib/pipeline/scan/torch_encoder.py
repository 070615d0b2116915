"""A tile encoder that torch runs: to encode slides in bulk, and to draft with a model that has no encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histgen_lib.cores import cores
from histgen_lib.errors import FatalError
from histgen_lib.inference import InferenceServer, ModelMetadata, Tensors, TensorSpec
from histgen_lib.models.devices import torch_device, torch_dtype
from histgen_lib.models.serving import Compute, Runner, fitted, smallest
from histgen_lib.models.tile_encoder.registry import TileNetwork
from histgen_lib.models.tile_encoder.serving import NAME, TileRunner

_CPU_TILES, _GPU_TILES = 32, 128


class TorchEncoder:
    """A network on a device, fed from several threads. Raises FatalError("device-unavailable").

    `batch_tiles`: how many tiles it is best given at once.
    """

    def __init__(self, network: TileNetwork, compute: Compute) -> None:
        self.device = torch_device(compute.device)
        self.batch_tiles = _GPU_TILES if self.device.type == "cuda" else _CPU_TILES
        with _enough_memory("the tile encoder"):
            self._network = network.eval().to(self.device, torch_dtype(compute.precision))
        self._lock = Lock()

    def start(self, tiles: npt.NDArray[np.uint8]) -> Tensor:
        """Encode tiles uint8[B, S, S, 3] RGB to features float16[B, D] on the device.

        A GPU may still be at it when this returns. Raises FatalError("device-memory").
        """
        with torch.inference_mode(), self._lock, _enough_memory(f"{len(tiles)} tiles at once"):
            features: Tensor = self._network(self._moved(torch.from_numpy(tiles))).half()
            return features

    def _moved(self, tiles: Tensor) -> Tensor:
        """Copy pixels to the device; to a GPU from pinned memory, which nothing waits for."""
        if self.device.type == "cpu":
            return tiles
        return tiles.pin_memory().to(self.device, non_blocking=True)


class LentEncoderServer:
    """An `InferenceServer` with a tile encoder that the model folder lacks; `inner` answers everything else.

    On a CPU every tile is encoded by itself on one thread, as every server does it: features depend on no
    neighbour.
    """

    def __init__(
        self,
        inner: InferenceServer,
        network: TileNetwork,
        *,
        tile_px: int,
        version: str,
        compute: Compute | None = None,
    ) -> None:
        compute = compute or Compute()
        self._inner = inner
        self._metadata = ModelMetadata(
            NAME,
            version,
            (TensorSpec("tiles", "uint8", (-1, tile_px, tile_px, 3)),),
            (TensorSpec("features", "float16", (-1, network.dim)),),
        )
        encoder = TorchEncoder(network, compute)
        if encoder.device.type == "cpu":
            torch.set_num_threads(1)
            self._runner: Runner = TileRunner(_Session(network), compute.threads or cores())
        else:
            self._runner = _Batches(encoder)

    def infer(self, model: str, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """See `InferenceServer`."""
        if model != NAME:
            return self._inner.infer(model, tensors)
        return self._runner.infer(fitted(tensors, self._metadata))

    def warm(self, model: str) -> None:
        """See `InferenceServer`."""
        self.infer(model, smallest(self._metadata)) if model == NAME else self._inner.warm(model)

    def ready(self, model: str) -> bool:
        """See `InferenceServer`."""
        return model == NAME or self._inner.ready(model)

    def metadata(self, model: str) -> ModelMetadata:
        """See `InferenceServer`."""
        return self._metadata if model == NAME else self._inner.metadata(model)

    def engine(self, model: str) -> str:
        """See `InferenceServer`."""
        return "torch" if model == NAME else self._inner.engine(model)


class _Session:
    """A network as `TileRunner` runs it."""

    def __init__(self, network: TileNetwork) -> None:
        self._network = network

    def run(self, inputs: Tensors) -> dict[str, npt.NDArray[Any]]:
        with torch.inference_mode():
            return {"features": self._network(torch.from_numpy(inputs["tiles"])).numpy()}


class _Batches:
    """A network on a GPU, given all tiles of a request at once."""

    def __init__(self, encoder: TorchEncoder) -> None:
        self._encoder = encoder

    def infer(self, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        return {"features": self._encoder.start(tensors["tiles"]).cpu().numpy()}


@contextmanager
def _enough_memory(what: str) -> Iterator[None]:
    """Turn torch's error for a full GPU into FatalError("device-memory"); `what` needed the memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise FatalError(
            "device-memory",
            f"The GPU has too little free memory for {what}.",
            hint="Stop what else uses the GPU (nvidia-smi lists it), or use --precision float16.",
        ) from error
