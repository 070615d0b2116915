"""Models run in this process by ONNX Runtime, from a model folder. No torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from histgen_lib.cores import cores
from histgen_lib.errors import InvalidInputError
from histgen_lib.inference import ModelMetadata, Tensors
from histgen_lib.inference._specs import MODELS, describe, fitted, smallest, unknown_model
from histgen_lib.models.histgen.folder import (
    DECODER_ONNX,
    ENCODER_ONNX,
    TILE_ENCODER_ONNX,
    ModelFolder,
    open_model_folder,
)
from histgen_lib.models.histgen.runtime import HistGenRuntime
from histgen_lib.models.onnx_session import OnnxSession

FILES = {"tile_encoder": (TILE_ENCODER_ONNX,), "histgen": (ENCODER_ONNX, DECODER_ONNX)}
"""Of a model folder's files, those that a model runs on."""


class _Runner(Protocol):
    def infer(self, tensors: Tensors) -> dict[str, npt.NDArray[Any]]: ...


class OnnxServer:
    """An `InferenceServer` over one model folder; networks are loaded when first used.

    `threads` bounds the cores one call uses; None leaves it to ONNX Runtime (all of them). Answers do not
    depend on it, nor on what else is asked (docs/decisions/0012).
    """

    def __init__(self, model_folder: Path | str, threads: int | None = None) -> None:
        self.folder: ModelFolder = open_model_folder(model_folder)
        self._threads = threads
        self._described: dict[str, ModelMetadata] = {}
        self._runners: dict[str, _Runner] = {}
        self._lock = Lock()

    def infer(self, model: str, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Run "tile_encoder" or "histgen" once; see `InferenceServer`."""
        runner = self.load(model)
        try:
            return runner.infer(fitted(tensors, self.metadata(model)))
        except MemoryError as error:
            raise _no_memory(model) from error

    def warm(self, model: str) -> None:
        """Load a model's networks now, and let them answer once."""
        self.infer(model, smallest(self.metadata(model)))

    def ready(self, model: str) -> bool:
        """Tell whether the folder has the model's files."""
        return model in FILES and all((self.folder.path / name).is_file() for name in FILES[model])

    def metadata(self, model: str) -> ModelMetadata:
        """Describe "tile_encoder" or "histgen"."""
        if model not in self._described:
            self._described[model] = describe(self.folder, model)
        return self._described[model]

    def load(self, model: str) -> _Runner:
        """Return a model's networks, loading them when first used."""
        if model not in FILES:
            raise unknown_model(model, MODELS)
        with self._lock:
            if model not in self._runners:
                self._runners[model] = self._load(model)
            return self._runners[model]

    def _load(self, model: str) -> _Runner:
        if model == "histgen":
            return HistGenRuntime(self.folder, self._threads)
        return _TileEncoderRuntime(self.folder.file(TILE_ENCODER_ONNX), self._threads or cores())


def _no_memory(model: str) -> InvalidInputError:
    return InvalidInputError(
        "inference-memory",
        f"There is not enough memory for what {model} computes of this slide.",
        hint="Give whatever runs the model (the worker, or tritonserver) more memory, then try again.",
    )


class _TileEncoderRuntime:
    """Each tile by itself, on one thread: a feature cannot depend on the tile's company, nor on the threads.

    It costs nothing on a processor, and where others want the cores too it is quicker than many threads that
    wait for each other within one tile.
    """

    def __init__(self, network: Path, threads: int) -> None:
        self._session = OnnxSession(network, threads=1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="histgen-tiles")

    def infer(self, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        tiles = tensors["tiles"]
        if len(tiles) == 0:
            raise InvalidInputError("tensor-shape", "There are no tiles to encode.")
        rows = list(self._pool.map(self._one, np.split(tiles, len(tiles))))
        return {"features": np.concatenate(rows).astype(np.float16)}

    def _one(self, tile: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return self._session.run({"tiles": tile})["features"]
