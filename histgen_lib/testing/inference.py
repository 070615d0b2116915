"""A model server without networks: it checks tensors as the others do, and answers by simple arithmetic."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histgen_lib.models.folder import ModelFolder, open_model_folder
from histgen_lib.models.histgen import HistGenConfig
from histgen_lib.models.histgen import serving as histgen
from histgen_lib.models.serving import ModelMetadata, Runner, Tensors, fitted, served_model, unknown_model
from histgen_lib.models.tile_encoder import serving as tile_encoder

Arrays = dict[str, npt.NDArray[Any]]


class FakeInference:
    """An `InferenceServer` with the tensors of a model folder's models, but none of its networks.

    A tile's feature follows from its mean colour. A report is made of `tokens`, or of tokens that follow from
    the bag; each token looks at all regions alike. `requests` counts calls of `infer` by model. Set `error`
    to have calls raise it, as a server does that is unavailable.
    """

    def __init__(self, model_folder: Path | str, *, tokens: Sequence[int] = ()) -> None:
        self.folder: ModelFolder = open_model_folder(model_folder)
        self.error: Exception | None = None
        self.requests: dict[str, int] = {}
        self._counting = threading.Lock()
        config = self.folder.histgen
        report = histgen.HistGenRunner(
            config, self.folder.decoding, _Encoder(config), _Decoder(config, tokens)
        )
        self._runners: dict[str, Runner] = {
            histgen.NAME: report,
            tile_encoder.NAME: tile_encoder.TileRunner(_TileEncoder(config.input_dim), threads=1),
        }

    def infer(self, model: str, tensors: Tensors) -> Arrays:
        """See `InferenceServer.infer`."""
        metadata = self.metadata(model)
        with self._counting:
            self.requests[model] = self.requests.get(model, 0) + 1
        return self._runners[model].infer(fitted(tensors, metadata))

    def warm(self, model: str) -> None:
        """See `InferenceServer.warm`."""
        self.metadata(model)

    def ready(self, model: str) -> bool:
        """See `InferenceServer.ready`."""
        return self.error is None and model in self._runners

    def metadata(self, model: str) -> ModelMetadata:
        """See `InferenceServer.metadata`."""
        if self.error is not None:
            raise self.error
        if model not in self._runners:
            raise unknown_model(model, self._runners)
        return served_model(model).metadata(self.folder)


class _TileEncoder:
    """In place of tile_encoder.onnx: each value is a wave of the tile's mean colour."""

    def __init__(self, width: int) -> None:
        self._frequencies = np.linspace(0.01, 0.1, width, dtype=np.float32)

    def run(self, inputs: Tensors) -> Arrays:
        colours = inputs["tiles"].astype(np.float32).mean(axis=(1, 2)) @ np.array([1, 2, 3], dtype=np.float32)
        return {"features": np.sin(colours[:, None] * self._frequencies)}


class _Encoder:
    """In place of histgen_encoder.onnx: tiles of a region count alike, and `cross` is each region's mean."""

    def __init__(self, config: HistGenConfig) -> None:
        self._shape = (config.num_layers, 2, 1, config.num_heads)
        self._width = config.d_model // config.num_heads

    def run(self, inputs: Tensors) -> Arrays:
        mask = inputs["mask"]
        counts = np.maximum(mask.sum(axis=1), 1)
        means = inputs["tiles"].sum(axis=(1, 2)) / counts
        cross = np.broadcast_to(means[:, None], (*self._shape, len(mask), self._width))
        return {
            "tile_weights": (mask / counts[:, None]).astype(np.float32),
            "cross": cross.astype(np.float32),
        }


class _Decoder:
    """In place of histgen_decoder.onnx: the likeliest word follows from the bag and the place in the text."""

    def __init__(self, config: HistGenConfig, tokens: Sequence[int]) -> None:
        self._words, self._tokens = config.vocab_size, tuple(tokens)
        self._length = config.max_tokens // 2

    def run(self, inputs: Tensors) -> Arrays:
        tokens, past, valid = inputs["tokens"], inputs["past"], inputs["valid"]
        place = past.shape[-2]
        slides, beams = tokens.shape
        log_probs = np.full((slides, beams, self._words + 1), 0.2 / self._words, dtype=np.float32)
        for slide in range(slides):
            log_probs[slide, :, self._next(inputs["cross"][0, 0, slide], place)] = 0.8
        attention = np.repeat((valid / valid.sum(axis=1, keepdims=True))[:, None], beams, axis=1)
        present = np.concatenate([past, np.zeros((*past.shape[:-2], 1, past.shape[-1]), np.float32)], axis=-2)
        return {"log_probs": np.log(log_probs), "attention": attention.astype(np.float32), "present": present}

    def _next(self, cross: npt.NDArray[np.float32], place: int) -> int:
        if self._tokens:
            return self._tokens[place] if place < len(self._tokens) else 0
        if place >= self._length:
            return 0
        return 1 + (int(np.abs(cross).sum() * 1000) + 7 * place) % self._words
