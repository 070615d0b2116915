"""Models run in this process, from a model folder: on a CPU by ONNX Runtime, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.folder import ModelFolder, open_model_folder
from histgen_lib.models.serving import (
    SERVED,
    Compute,
    Device,
    ModelMetadata,
    Precision,
    Runner,
    RunnerOfMany,
    ServedModel,
    Tensors,
    fitted,
    served_model,
    smallest,
)

Loader = Callable[[ModelFolder, ServedModel, Compute], Runner]


class OnnxServer:
    """An `InferenceServer` over one model folder; networks are loaded when first used.

    `threads` bounds the cores one call uses; None leaves it to ONNX Runtime (all of them). Answers do not
    depend on it, nor on what else is asked (docs/decisions/0012). `load`: how a model is loaded, if not as it
    says itself.
    """

    def __init__(
        self,
        model_folder: Path | str,
        threads: int | None = None,
        *,
        device: Device = "cpu",
        precision: Precision = "float32",
        load: Loader | None = None,
    ) -> None:
        self.folder: ModelFolder = open_model_folder(model_folder)
        self._load = load or _own_runner
        self._compute = Compute(threads, device, precision)
        self._described: dict[str, ModelMetadata] = {}
        self._runners: dict[str, Runner] = {}
        self._lock = Lock()

    def infer(self, model: str, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Run a model once; see `InferenceServer`."""
        runner = self.load(model)
        try:
            return runner.infer(fitted(tensors, self.metadata(model)))
        except MemoryError as error:
            raise _no_memory(model) from error

    def infer_many(
        self, model: str, requests: Sequence[Tensors]
    ) -> list[dict[str, npt.NDArray[Any]] | Exception]:
        """Answer several requests, together if the model's runner can; an exception where `infer` raises."""
        with suppress(Exception):  # one of them is wrong, or they are too large together
            return list(self._together(model, requests))
        return [self._answer(model, tensors) for tensors in requests]

    def _together(self, model: str, requests: Sequence[Tensors]) -> list[dict[str, npt.NDArray[Any]]]:
        runner, metadata = self.load(model), self.metadata(model)
        checked = [fitted(tensors, metadata) for tensors in requests]
        if isinstance(runner, RunnerOfMany):
            return runner.infer_many(checked)
        if served_model(model).batching == "bags":
            return [runner.infer(one) for one in checked]
        joined = {name: np.concatenate([one[name] for one in checked]) for name in checked[0]}
        ends = np.cumsum([len(next(iter(one.values()))) for one in checked])[:-1]
        parts = {name: np.split(value, ends) for name, value in runner.infer(joined).items()}
        return [{name: pieces[number] for name, pieces in parts.items()} for number in range(len(checked))]

    def _answer(self, model: str, tensors: Tensors) -> dict[str, npt.NDArray[Any]] | Exception:
        try:
            return self.infer(model, tensors)
        except Exception as error:  # whoever asked for this one decides what it means
            return error

    def warm(self, model: str) -> None:
        """Load a model's networks now, and have them answer once."""
        self.infer(model, smallest(self.metadata(model)))

    def ready(self, model: str) -> bool:
        """Return whether the folder has the model's files."""
        return model in SERVED and served_model(model).is_in(self.folder)

    def metadata(self, model: str) -> ModelMetadata:
        """Describe a model of the folder."""
        if model not in self._described:
            self._described[model] = served_model(model).metadata(self.folder)
        return self._described[model]

    def engine(self, model: str) -> str:
        """See `InferenceServer`."""
        return "onnx"

    def load(self, model: str) -> Runner:
        """Return a model's networks, loading them when first used."""
        served = served_model(model)
        with self._lock:
            if model not in self._runners:
                self._runners[model] = self._load(self.folder, served, self._compute)
            return self._runners[model]


def _own_runner(folder: ModelFolder, served: ServedModel, compute: Compute) -> Runner:
    return served.runner(folder, compute)


def _no_memory(model: str) -> InvalidInputError:
    return InvalidInputError(
        "inference-memory",
        f"There is not enough memory for what {model} computes of this slide.",
        hint="Give whatever runs the model (the worker, or tritonserver) more memory, then try again.",
    )
