"""What a model server needs to know about a model, stated by the model itself.

A model that a server can host has a folder beside this file, with a `serving.py` whose `MODEL` is a
`ServedModel`, and its name in `SERVED`; a folder with several says in `_ELSEWHERE` where each is. Inference
and export read everything else from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import FatalError, InvalidInputError

SERVED = ("histgen", "tile_encoder", "fgcr_image", "fgcr_text")
"""The models that a server can host: folders beside this file, each with a `serving.py`."""

_ELSEWHERE = {"fgcr_image": ("fgcr", "IMAGE"), "fgcr_text": ("fgcr", "TEXT")}
"""Models whose folder has another name, and what they are called in its `serving.py`."""

Batching = Literal["rows", "bags"]
"""How requests are batched. "rows": the first axis of every tensor is the batch axis. "bags": each tensor
gets a batch axis of size 1 in front, so that bags of different lengths stay apart."""

Tensors = Mapping[str, npt.NDArray[Any]]

Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Compute:
    """What a model runs on: `device`, the number format of its networks, and on a CPU how many cores.

    `threads` None leaves the number to the engine (all cores).
    """

    threads: int | None = None
    device: Device = "cpu"
    precision: Precision = "float32"


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: `dtype` a NumPy name (alternatives joined by "|"), -1 in `shape` for any size."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class ModelMetadata:
    """A model's inputs and outputs; `version` is a digest of everything that decides its outputs."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Session(Protocol):
    """One network, ready to run."""

    def run(self, inputs: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Run the network; outputs by name."""
        ...


class Runner(Protocol):
    """A loaded model. Safe to use from several threads."""

    def infer(self, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Answer one request whose tensors fit the model's inputs."""
        ...


@runtime_checkable
class RunnerOfMany(Protocol):
    """A loaded model that computes several requests together, as suits a GPU. Safe to use from threads."""

    def infer(self, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Answer one request; see `Runner`."""
        ...

    def infer_many(self, requests: Sequence[Tensors]) -> list[dict[str, npt.NDArray[Any]]]:
        """Answer requests, in order. One that is wrong may fail them all: then each is asked alone."""
        ...


class ServedFolder(Protocol):
    """The part of a model folder that serving reads; see `histgen_lib.models.folder.ModelFolder`."""

    @property
    def path(self) -> Path:
        """The folder."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The content of config.json."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides what the folder's models answer."""
        ...

    def file(self, name: str) -> Path:
        """Return the path of a file. Raises FatalError("model-incomplete") if it is missing."""
        ...


@dataclass(frozen=True)
class Misfit:
    """The error for a tensor that does not fit: its code, and what to do about it."""

    code: str = "tensor-shape"
    hint: str = ""


@dataclass(frozen=True)
class ServedModel:
    """One model, as a server hosts it.

    files    names of the files in the model folder that it runs on
    beside   names of further ones, which not every folder has
    graph    the file, if it is one graph whose inputs and outputs are the model's own
    weights  names of the files from which torch rebuilds it; none: it runs on ONNX Runtime only
    engines  names of the engines that it is compiled to; none: it is not compiled
    optional a folder without its files is whole all the same: servers then do without it
    inputs, outputs   its tensors, which may depend on the folder's config.json
    runner   loads it in this process
    largest  how many rows or bags a server hands over at once
    misfits  errors for tensors that do not fit, by name; `Misfit()` for the rest
    cheap    values of optional inputs that make the smallest request quick to answer
    """

    name: str
    files: tuple[str, ...]
    inputs: Callable[[ServedFolder], tuple[TensorSpec, ...]]
    outputs: Callable[[ServedFolder], tuple[TensorSpec, ...]]
    runner: Callable[[ServedFolder, Compute], Runner]
    batching: Batching
    largest: int
    misfits: Mapping[str, Misfit] = field(default_factory=dict)
    cheap: Mapping[str, int] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    graph: str = ""
    weights: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    optional: bool = False

    def metadata(self, folder: ServedFolder) -> ModelMetadata:
        """Describe the model that a folder holds."""
        return ModelMetadata(self.name, folder.digest, self.inputs(folder), self.outputs(folder))

    def is_in(self, folder: ServedFolder) -> bool:
        """Return whether a folder has all of the model's files."""
        return all((folder.path / name).is_file() for name in self.files)


def served_models() -> tuple[ServedModel, ...]:
    """Return all models of `SERVED`."""
    return tuple(map(served_model, SERVED))


def hosted_models(folder: ServedFolder) -> tuple[ServedModel, ...]:
    """Return the models that a server of this folder has: all but optional ones that it has no files of."""
    return tuple(model for model in served_models() if not model.optional or model.is_in(folder))


def served_model(name: str) -> ServedModel:
    """Return a model by name. Raises as `unknown_model`."""
    if name not in SERVED:
        raise unknown_model(name, SERVED)
    folder, attribute = _ELSEWHERE.get(name, (name, "MODEL"))
    model: ServedModel = getattr(import_module(f"histgen_lib.models.{folder}.serving"), attribute)
    return model


def unknown_model(model: str, known: Iterable[str]) -> FatalError:
    """Make the error for a name that a server does not know: FatalError("inference-model-unknown")."""
    return FatalError(
        "inference-model-unknown",
        f"There is no model {model!r} here.",
        hint=f"Known: {', '.join(sorted(known)) or 'none'}.",
    )


def smallest(metadata: ModelMetadata) -> dict[str, npt.NDArray[Any]]:
    """Make the smallest request that a model answers."""
    cheap = served_model(metadata.name).cheap if metadata.name in SERVED else {}
    needed = {
        spec.name: np.zeros([max(size, 1) for size in spec.shape], dtype=spec.dtype.split("|")[0])
        for spec in metadata.inputs
        if not spec.optional
    }
    return needed | {
        spec.name: np.full(spec.shape, cheap[spec.name], dtype=spec.dtype)
        for spec in metadata.inputs
        if spec.name in cheap
    }


def fitted(tensors: Tensors, metadata: ModelMetadata) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors with the names, dtypes, ranks and fixed sizes that `metadata` states.

    Numbers are converted where their kind allows it (float64 to float32, int64 to int32). Raises
    InvalidInputError: "tensor-missing", "tensor-unknown", and for a tensor that does not fit the code that
    the model's `misfits` gives.
    """
    specs = {spec.name: spec for spec in metadata.inputs}
    missing = [name for name, spec in specs.items() if not spec.optional and name not in tensors]
    if missing:
        raise InvalidInputError("tensor-missing", f"The request lacks {', '.join(missing)}.")
    unknown = sorted(set(tensors) - set(specs))
    if unknown:
        raise InvalidInputError(
            "tensor-unknown",
            f"{metadata.name} takes no {', '.join(unknown)}.",
            hint=f"It takes {', '.join(specs)}.",
        )
    return {name: _fit(np.asarray(value), specs[name], metadata.name) for name, value in tensors.items()}


def _fit(value: npt.NDArray[Any], spec: TensorSpec, model: str) -> npt.NDArray[Any]:
    shaped = value.reshape(-1) if len(spec.shape) == 1 else value
    fits = len(shaped.shape) == len(spec.shape) and all(
        expected in {-1, size} for expected, size in zip(spec.shape, shaped.shape, strict=True)
    )
    converted = _converted(shaped, spec.dtype.split("|")) if fits else None
    if converted is None:
        misfits = served_model(model).misfits if model in SERVED else {}
        misfit = misfits.get(spec.name, Misfit())
        raise InvalidInputError(
            misfit.code,
            f"{model} takes {spec.name} as {spec.dtype} {_sizes(spec.shape)}; "
            f"this is {value.dtype} {_sizes(value.shape)}.",
            hint=misfit.hint,
        )
    return converted


def _converted(value: npt.NDArray[Any], dtypes: list[str]) -> npt.NDArray[Any] | None:
    """Convert to the last of `dtypes` unless it has one of them; None where its kind or values forbid it."""
    if dtypes == ["str"]:
        return value.astype(object) if value.dtype.kind in "USO" else None
    if value.dtype.name in dtypes:
        return value
    target = np.dtype(dtypes[-1])
    if not np.can_cast(value.dtype, target, "same_kind"):
        return None
    with np.errstate(over="ignore"):  # beyond float32's range: infinite, which is checked later
        converted = value.astype(target)
    return None if target.kind in "iu" and np.any(converted != value) else converted


def _sizes(shape: tuple[int, ...]) -> str:
    return f"[{', '.join('any' if size < 0 else str(size) for size in shape)}]"


_NO_ROOM = ("Failed to allocate memory", "bad_alloc")
"""Words of ONNX Runtime when it is out of memory, in errors of several classes."""


class OnnxSession:
    """One network file, ready to run. Raises FatalError("model-onnx") when it cannot be loaded.

    `run` raises the same for inputs that the network does not take (its shapes follow from config.json), and
    MemoryError when there is too little memory.
    `shrink`: return memory after each run rather than keep it for the next (a large slide takes a GB).
    `device` "cuda" raises FatalError("device-unavailable") where ONNX Runtime cannot use a GPU; with
    `engines`, a folder to keep what is built, it uses its TensorRT provider if there is one.
    """

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        *,
        shrink: bool = False,
        device: Device = "cpu",
        engines: Path | None = None,
    ) -> None:
        import onnxruntime  # heavy, and this module is read by whoever talks to a server elsewhere

        from histgen_lib.models.devices import no_cuda_provider, onnx_providers

        self._name = path.name
        self._options = onnxruntime.RunOptions()
        if shrink and device == "cpu":
            self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        providers = onnx_providers(device, engines)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime raises a class of its own for each status
            raise FatalError(
                "model-onnx",
                f"{path.name} cannot be loaded by ONNX Runtime ({type(error).__name__}).",
                hint="Run `histgen model export`, or fetch the model again.",
            ) from error
        if device == "cuda" and self._session.get_providers() == ["CPUExecutionProvider"]:
            raise no_cuda_provider()  # its libraries did not load: ONNX Runtime only prints that
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run the network; outputs by name."""
        try:
            found = self._session.run(self._outputs, dict(inputs), self._options)
        except Exception as error:
            from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

            if isinstance(error, InvalidArgument | ValueError):  # ValueError: inputs by other names
                raise FatalError(
                    "model-onnx",
                    f"{self._name} does not take what config.json states.",
                    hint="Its files are of different models: run `histgen model export`, or fetch it again.",
                ) from error
            if any(words in str(error) for words in _NO_ROOM):
                raise MemoryError from error
            raise
        return dict(zip(self._outputs, found, strict=True))
