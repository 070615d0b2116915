"""A model server without networks: it checks tensors as the others do, and answers by simple arithmetic."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histgen_lib.models.bag_tensors import Features
from histgen_lib.models.fgcr import serving as fgcr
from histgen_lib.models.folder import ModelFolder, open_model_folder
from histgen_lib.models.histgen import HistGenConfig
from histgen_lib.models.histgen import serving as histgen
from histgen_lib.models.histgen.decoding import DecodingSettings, Floats, Ints, Step, decode
from histgen_lib.models.histgen.layout import Arrangement
from histgen_lib.models.serving import ModelMetadata, Runner, Tensors, fitted, served_model, unknown_model
from histgen_lib.models.tile_encoder import serving as tile_encoder

Arrays = dict[str, npt.NDArray[Any]]


class FakeInference:
    """An `InferenceServer` with the tensors of a model folder's models, but none of its networks.

    A tile's feature follows from its mean colour, a slide's vectors from its features, a text's from its
    tokens. A report is made of `tokens`, or of tokens that follow from
    the bag; each token looks at all regions alike. `requests` counts calls of `infer` by model. Set `error`
    to have calls raise it, as a server does that is unavailable.
    """

    def __init__(self, model_folder: Path | str, *, tokens: Sequence[int] = ()) -> None:
        self.folder: ModelFolder = open_model_folder(model_folder)
        self.error: Exception | None = None
        self.requests: dict[str, int] = {}
        self._counting = threading.Lock()
        config = self.folder.histgen
        report = histgen.report_runner(self.folder, _ReportEngine(config, tokens))
        self._runners: dict[str, Runner] = {
            histgen.NAME: report,
            tile_encoder.NAME: tile_encoder.TileRunner(_TileEncoder(config.input_dim), threads=1),
        }
        if self.folder.retrieval:
            sizes = fgcr.retrieval_config(self.folder)
            network = _RetrievalNetwork(sizes.vector_dim)
            self._runners[fgcr.IMAGE.name] = fgcr.ImageRunner(sizes, network)
            self._runners[fgcr.TEXT.name] = fgcr.TextRunner(sizes, network)

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

    def engine(self, model: str) -> str:
        """See `InferenceServer.engine`."""
        return "fake"


class _TileEncoder:
    """In place of tile_encoder.onnx: each value is a wave of the tile's mean colour."""

    def __init__(self, width: int) -> None:
        self._frequencies = np.linspace(0.01, 0.1, width, dtype=np.float32)

    def run(self, inputs: Tensors) -> Arrays:
        colours = inputs["tiles"].astype(np.float32).mean(axis=(1, 2)) @ np.array([1, 2, 3], dtype=np.float32)
        return {"features": np.sin(colours[:, None] * self._frequencies)}


class _RetrievalNetwork:
    """In place of the retrieval network: means of features, and counts of tokens, at unit length."""

    def __init__(self, width: int) -> None:
        self._width = width

    def run(self, inputs: Tensors) -> Arrays:
        if "tokens" in inputs:
            counts = np.bincount(inputs["tokens"] % self._width, minlength=self._width)
            return {"vector": self._unit(counts[None])[0]}
        shares = inputs["soft_mask"] / inputs["soft_mask"].sum(axis=1, keepdims=True)
        means = shares @ inputs["features"]
        regions = self._unit(np.stack([np.resize(row, self._width) for row in means]))
        return {"slide": self._unit(regions.sum(axis=0, keepdims=True))[0], "regions": regions}

    def _unit(self, rows: npt.NDArray[Any]) -> Floats:
        unit: Floats = (rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9)).astype(np.float32)
        return unit


class _ReportEngine:
    """In place of the report network: tiles of a region count alike, and so do the regions."""

    def __init__(self, config: HistGenConfig, tokens: Sequence[int]) -> None:
        self._config, self._tokens = config, tuple(tokens)

    def write(self, features: Features, places: Arrangement, settings: DecodingSettings) -> histgen.Written:
        counts = np.maximum(places.mask.sum(axis=1), 1)
        of_tiles = np.where(places.mask, features.sum(axis=1, dtype=np.float32)[places.rows], 0)
        text = decode(_Stepper(self._config, self._tokens, of_tiles.sum(axis=1) / counts), settings)[0]
        return histgen.Written(text, (places.mask / counts[:, None]).astype(np.float32))


class _Stepper:
    """The likeliest word follows from the bag and the place in the text. The cache is that place."""

    slides = 1

    def __init__(self, config: HistGenConfig, tokens: tuple[int, ...], means: Floats) -> None:
        self._words, self._tokens = config.vocab_size, tokens
        self._length = config.max_tokens // 2
        self._regions = len(means)
        self._bag = int(np.abs(means).sum() * 1000)

    def start(self) -> int:
        return 0

    def step(self, tokens: Ints, cache: int) -> Step[int]:
        log_probs = np.full((*tokens.shape, self._words + 1), np.log(0.2 / self._words), dtype=np.float32)
        log_probs[:, :, self._next(cache)] = np.log(0.8)
        attention = np.full((*tokens.shape, self._regions), 1 / self._regions, dtype=np.float32)
        return Step(log_probs, attention, cache + 1)

    def select(self, cache: int, slides: Ints, beams: Ints) -> int:
        return cache

    def _next(self, place: int) -> int:
        if self._tokens:
            return self._tokens[place] if place < len(self._tokens) else 0
        if place >= self._length:
            return 0
        return 1 + (self._bag + 7 * place) % self._words
