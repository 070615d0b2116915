"""Models run in this process by ONNX Runtime, from a model folder. No torch."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.inference import ModelMetadata, Tensors, TensorSpec
from histgen_lib.models.histgen.folder import (
    DECODER_ONNX,
    ENCODER_ONNX,
    TILE_ENCODER_ONNX,
    ModelFolder,
    open_model_folder,
)
from histgen_lib.models.histgen.runtime import HistGenRuntime
from histgen_lib.models.onnx_session import OnnxSession

MAX_TILES = 32
"""Tiles run at once: enough to keep the cores busy, few enough for a laptop's memory."""

FILES = {"tile_encoder": (TILE_ENCODER_ONNX,), "histgen": (ENCODER_ONNX, DECODER_ONNX)}


class _Runner(Protocol):
    def infer(self, tensors: Tensors) -> dict[str, npt.NDArray[Any]]: ...


class OnnxServer:
    """An `InferenceServer` over one model folder; networks are loaded when first used.

    `threads` bounds the cores one call uses; None leaves it to ONNX Runtime (all of them).
    """

    def __init__(self, model_folder: Path | str, threads: int | None = None) -> None:
        self.folder: ModelFolder = open_model_folder(model_folder)
        self._threads = threads
        self._runners: dict[str, _Runner] = {}
        self._lock = Lock()

    def infer(self, model: str, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Run "tile_encoder" or "histgen" once; see `InferenceServer`."""
        return self._runner(model).infer(tensors)

    def ready(self, model: str) -> bool:
        """Tell whether the folder has the model's files."""
        return model in FILES and all((self.folder.path / name).is_file() for name in FILES[model])

    def metadata(self, model: str) -> ModelMetadata:
        """Describe "tile_encoder" or "histgen"."""
        _known(model)
        config = self.folder.histgen
        make = {"tile_encoder": _tile_encoder_metadata, "histgen": _histgen_metadata}[model]
        return make(self.folder.digest, config.input_dim)

    def _runner(self, model: str) -> _Runner:
        _known(model)
        with self._lock:
            if model not in self._runners:
                self._runners[model] = self._load(model)
            return self._runners[model]

    def _load(self, model: str) -> _Runner:
        if model == "histgen":
            return HistGenRuntime(self.folder, self._threads)
        return _TileEncoderRuntime(OnnxSession(self.folder.file(TILE_ENCODER_ONNX), self._threads))


class _TileEncoderRuntime:
    def __init__(self, session: OnnxSession) -> None:
        self._session = session

    def infer(self, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        if "tiles" not in tensors:
            raise InvalidInputError("tensor-missing", "The request lacks tiles.")
        tiles = np.asarray(tensors["tiles"])
        if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3 or len(tiles) == 0:
            raise InvalidInputError(
                "tensor-shape",
                f"Tiles are uint8 [count, height, width, 3]; these are {tiles.dtype} {list(tiles.shape)}.",
            )
        parts = [tiles[start : start + MAX_TILES] for start in range(0, len(tiles), MAX_TILES)]
        features = [self._session.run({"tiles": part})["features"] for part in parts]
        return {"features": np.concatenate(features).astype(np.float16)}


def _known(model: str) -> None:
    if model not in FILES:
        raise FatalError(
            "inference-model-unknown",
            f"There is no model {model!r} here.",
            hint=f"Known: {', '.join(sorted(FILES))}.",
        )


def _tile_encoder_metadata(version: str, width: int) -> ModelMetadata:
    return ModelMetadata(
        "tile_encoder",
        version,
        inputs=(TensorSpec("tiles", "uint8", (-1, -1, -1, 3)),),
        outputs=(TensorSpec("features", "float16", (-1, width)),),
    )


def _histgen_metadata(version: str, width: int) -> ModelMetadata:
    stated = {
        "span_px": "float32",
        "beam_size": "int32",
        "max_tokens": "int32",
        "temperature": "float32",
        "top_k": "int32",
        "top_p": "float32",
        "seed": "int64",
        "method": "str",
    }
    settings = tuple(TensorSpec(name, dtype, (1,), optional=True) for name, dtype in stated.items())
    return ModelMetadata(
        "histgen",
        version,
        inputs=(
            TensorSpec("features", "float16|float32", (-1, width)),
            TensorSpec("xy", "int32", (-1, 2)),
            TensorSpec("slide", "int32", (-1,), optional=True),
            *settings,
        ),
        outputs=(
            TensorSpec("tokens", "int32", (-1,)),
            TensorSpec("logprobs", "float32", (-1,)),
            TensorSpec("evidence", "float32", (-1, -1)),
            TensorSpec("score", "float32", (1,)),
        ),
    )
