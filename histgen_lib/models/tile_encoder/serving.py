"""The tile encoder as a server hosts it: tiles in, one feature a tile out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from histgen_lib.cores import cores
from histgen_lib.errors import InvalidInputError
from histgen_lib.models.serving import (
    Compute,
    OnnxSession,
    Runner,
    ServedFolder,
    ServedModel,
    Session,
    Tensors,
    TensorSpec,
)

NAME = "tile_encoder"
TILE_ENCODER_ONNX = "tile_encoder.onnx"
TILE_ENCODER_DATA = f"{TILE_ENCODER_ONNX}.data"
"""The weights of a graph that cannot hold them (2 GB and more)."""

TILE_ENCODER_WEIGHTS = "tile_encoder.safetensors"
QUANTISATION = "quantisation"
"""What a model folder's section "encoder" says about a tile encoder in int8; absent for all others."""


class TileRunner:
    """Encodes each tile by itself, on one thread: a feature depends on neither the batch nor the threads.

    This costs nothing on a processor, and where others want the cores too it is quicker than many threads
    that wait for each other within one tile.
    """

    def __init__(self, session: Session, threads: int) -> None:
        self._session = session
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="histgen-tiles")

    def infer(self, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Encode "tiles" uint8[B, S, S, 3] RGB to "features" float16[B, D]; B ≥ 1 or "tensor-shape"."""
        tiles = tensors["tiles"]
        if len(tiles) == 0:
            raise InvalidInputError("tensor-shape", "There are no tiles to encode.")
        rows = list(self._pool.map(self._one, np.split(tiles, len(tiles))))
        return {"features": np.concatenate(rows).astype(np.float16)}

    def _one(self, tile: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return self._session.run({"tiles": tile})["features"]


BATCH_SIZES = (1, 8, 32, 64, 128, 256)
"""Tiles that go through a GPU's network at once: a batch is filled up to the next of these, so that libraries
meet few shapes, and a tile's feature depends on how many came with it as little as possible."""


class PaddedRunner:
    """Encodes tiles in batches of fixed sizes: on a GPU, by ONNX Runtime."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def infer(self, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Encode tiles; see `TileRunner.infer`."""
        parts = [self._encode(part) for part in batches(tensors["tiles"])]
        return {"features": np.concatenate(parts).astype(np.float16)}

    def _encode(self, tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        filled = np.zeros((batch_size(len(tiles)), *tiles.shape[1:]), dtype=np.uint8)
        filled[: len(tiles)] = tiles
        return self._session.run({"tiles": filled})["features"][: len(tiles)]


def batches(tiles: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
    """Cut tiles [B, …] into the largest batches. Raises InvalidInputError("tensor-shape") for none."""
    if len(tiles) == 0:
        raise InvalidInputError("tensor-shape", "There are no tiles to encode.")
    most = BATCH_SIZES[-1]
    return [tiles[first : first + most] for first in range(0, len(tiles), most)]


def batch_size(count: int) -> int:
    """Return the least of `BATCH_SIZES` that holds so many tiles."""
    return next(size for size in BATCH_SIZES if size >= count)


def _inputs(folder: ServedFolder) -> tuple[TensorSpec, ...]:
    side = int(folder.config["tiling"]["tile_px"])
    return (TensorSpec("tiles", "uint8", (-1, side, side, 3)),)


def _outputs(folder: ServedFolder) -> tuple[TensorSpec, ...]:
    return (TensorSpec("features", "float16", (-1, int(folder.config["histgen"]["input_dim"]))),)


def _runner(folder: ServedFolder, compute: Compute) -> Runner:
    if (compute.device, compute.precision) == ("cpu", "float32"):
        session = OnnxSession(folder.file(TILE_ENCODER_ONNX), threads=1)
        return TileRunner(session, compute.threads or cores())
    if compute.device == "cuda" and not _is_torchs(folder):
        return PaddedRunner(OnnxSession(folder.file(TILE_ENCODER_ONNX), device="cuda"))
    from histgen_lib.models.tile_encoder.torch_runner import torch_runner  # torch is heavy, and an extra

    if folder.config["encoder"].get(QUANTISATION):
        raise InvalidInputError(
            "encoder-int8",
            f"The tile encoder of {folder.path.name} is in int8; torch would compute in another format.",
            hint="Leave out --precision, or use the model folder that it was made from.",
        )
    return torch_runner(folder, compute)


def _is_torchs(folder: ServedFolder) -> bool:
    """Return whether torch can compute a folder's tile encoder: there are weights, of no other graph."""
    encoder = folder.config.get("encoder") or {}
    other = encoder.get("architecture") == "onnx" or QUANTISATION in encoder
    return (folder.path / TILE_ENCODER_WEIGHTS).is_file() and not other


MODEL = ServedModel(
    name=NAME,
    files=(TILE_ENCODER_ONNX,),
    beside=(TILE_ENCODER_DATA,),
    graph=TILE_ENCODER_ONNX,
    weights=(TILE_ENCODER_WEIGHTS,),
    engines=("tile_encoder",),
    inputs=_inputs,
    outputs=_outputs,
    runner=_runner,
    batching="rows",
    largest=64,
)
