"""What the two models take and give, and whether given tensors fit. The same rules on every server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.inference import ModelMetadata, Tensors, TensorSpec
from histgen_lib.models.histgen.folder import ModelFolder

MODELS = ("histgen", "tile_encoder")

_SETTINGS = {
    "span_px": "float32",
    "beam_size": "int32",
    "max_tokens": "int32",
    "temperature": "float32",
    "top_k": "int32",
    "top_p": "float32",
    "seed": "int64",
    "method": "str",
}

_SHORT = "max_tokens"
"""The input that shortens a text."""

_CODES = {"tiles": "tensor-shape", "features": "bag-shape", "xy": "bag-shape", "slide": "bag-shape"}
"""What a tensor that does not fit is called; any other is one of decoding's settings."""


def describe(folder: ModelFolder, model: str) -> ModelMetadata:
    """Describe "tile_encoder" or "histgen" of a model folder; raises what `unknown_model` makes."""
    width = folder.histgen.input_dim
    if model == "tile_encoder":
        side = int(folder.tiling["tile_px"])
        return ModelMetadata(
            model,
            folder.digest,
            inputs=(TensorSpec("tiles", "uint8", (-1, side, side, 3)),),
            outputs=(TensorSpec("features", "float16", (-1, width)),),
        )
    if model != "histgen":
        raise unknown_model(model, MODELS)
    return ModelMetadata(
        model,
        folder.digest,
        inputs=(
            TensorSpec("features", "float16|float32", (-1, width)),
            TensorSpec("xy", "int32", (-1, 2)),
            TensorSpec("slide", "int32", (-1,), optional=True),
            *(TensorSpec(name, dtype, (1,), optional=True) for name, dtype in _SETTINGS.items()),
        ),
        outputs=(
            TensorSpec("tokens", "int32", (-1,)),
            TensorSpec("logprobs", "float32", (-1,)),
            TensorSpec("evidence", "float32", (-1, -1)),
            TensorSpec("score", "float32", (1,)),
        ),
    )


def smallest(metadata: ModelMetadata) -> dict[str, npt.NDArray[Any]]:
    """Make the smallest request that a model answers."""
    tensors = {
        spec.name: np.zeros([max(size, 1) for size in spec.shape], dtype=spec.dtype.split("|")[0])
        for spec in metadata.inputs
        if not spec.optional
    }
    if any(spec.name == _SHORT for spec in metadata.inputs):
        tensors[_SHORT] = np.ones(1, dtype=np.int32)
    return tensors


def unknown_model(model: str, known: Iterable[str]) -> FatalError:
    """Make the error for a name that a server does not know."""
    return FatalError(
        "inference-model-unknown",
        f"There is no model {model!r} here.",
        hint=f"Known: {', '.join(sorted(known)) or 'none'}.",
    )


def fitted(tensors: Tensors, metadata: ModelMetadata) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors as `metadata` says: its names, dtypes, ranks and fixed sizes.

    Numbers are converted where their kind allows it (float64 to float32, int64 to int32). Raises
    InvalidInputError: "tensor-missing", "tensor-unknown", "tensor-shape", "bag-shape", "decoding-settings".
    """
    specs = {spec.name: spec for spec in metadata.inputs}
    missing = [name for name, spec in specs.items() if not spec.optional and name not in tensors]
    if missing:
        raise InvalidInputError("tensor-missing", f"The request lacks {', '.join(missing)}.")
    strange = sorted(set(tensors) - set(specs))
    if strange:
        raise InvalidInputError(
            "tensor-unknown",
            f"{metadata.name} takes no {', '.join(strange)}.",
            hint=f"It takes {', '.join(specs)}.",
        )
    return {name: _fit(np.asarray(value), specs[name], metadata.name) for name, value in tensors.items()}


def _fit(value: npt.NDArray[Any], spec: TensorSpec, model: str) -> npt.NDArray[Any]:
    shaped = value.reshape(-1) if len(spec.shape) == 1 else value
    fits = len(shaped.shape) == len(spec.shape) and all(
        size in {-1, given} for size, given in zip(spec.shape, shaped.shape, strict=True)
    )
    converted = _converted(shaped, spec.dtype.split("|")) if fits else None
    if converted is None:
        raise InvalidInputError(
            _CODES.get(spec.name, "decoding-settings"),
            f"{model} takes {spec.name} as {spec.dtype} {_sizes(spec.shape)}; "
            f"this is {value.dtype} {_sizes(value.shape)}.",
            hint="Encode the slide with the tile encoder that the model was trained with."
            if spec.name == "features"
            else "",
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
    with np.errstate(over="ignore"):  # what leaves float32's range is found not to be finite
        converted = value.astype(target)
    return None if target.kind in "iu" and np.any(converted != value) else converted


def _sizes(shape: tuple[int, ...]) -> str:
    return f"[{', '.join('any' if size < 0 else str(size) for size in shape)}]"
