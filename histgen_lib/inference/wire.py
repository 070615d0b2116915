"""How our tensors and errors travel to a Triton server and back; both ends import this module.

A model batches requests in one of two ways. With "rows" the first axis of every tensor is Triton's batch
axis: tiles of several requests may be joined. With "bags" every tensor has an extra batch axis of size 1 in
front: bags of different lengths stay apart, but are handed over together. A tensor of two possible dtypes
travels under two names, `features` and `features_float32`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.models.serving import TensorSpec

# Parameters in a model's config.pbtxt:
BATCHING = "batching"
VERSION = "version"
"""The digest of its model folder."""
FOLDER = "model_folder"
"""The path of its model folder, from the model's own folder."""
THREADS = "threads"
DEVICE = "device"
"""What its networks run on: "cpu" unless stated."""
PRECISION = "precision"
"""Their number format."""
ENGINES = "engines"
"""The flavour of the compiled engines it runs on, if any."""
NETWORKS = "networks"
"""JSON: the digest of the network that each of these engines was compiled from."""

TRITON_TYPES = {
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "str": "STRING",
}
REQUEST_TYPES = {"str": "BYTES"}
"""Types that requests name differently from the configuration."""
DTYPES = {triton: ours for ours, triton in TRITON_TYPES.items()}

_MARK = "histgen-error:"
_KINDS: dict[str, type[HistgenError]] = {
    kind.__name__: kind for kind in (TransientError, InvalidInputError, FatalError)
}


def wire_names(spec: TensorSpec) -> Iterator[tuple[str, str]]:
    """Yield the names under which a tensor may travel, each with its dtype."""
    first, *others = spec.dtype.split("|")
    yield spec.name, first
    for dtype in others:
        yield f"{spec.name}_{dtype}", dtype


def wire_name(spec: TensorSpec, dtype: str) -> str:
    """Return the name on the wire of a tensor with that dtype."""
    return next((name for name, known in wire_names(spec) if known == dtype), spec.name)


def joined(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Undo `wire_names`: join the specs of a tensor's names. A tensor with several names is not optional."""
    names = {spec.name for spec in specs}
    found: dict[str, TensorSpec] = {}
    for spec in specs:
        base = spec.name.removesuffix(f"_{spec.dtype}")
        if base != spec.name and base in names:
            one = found[base]
            found[base] = TensorSpec(base, f"{one.dtype}|{spec.dtype}", one.shape)
        else:
            found[spec.name] = spec
    return tuple(found.values())


def encode_error(error: HistgenError) -> str:
    """Encode an error of ours as the text of a Triton error."""
    kind = next((name for name, known in _KINDS.items() if isinstance(error, known)), FatalError.__name__)
    return f"{_MARK}{json.dumps({'kind': kind, **error.to_json()})}"


def decode_error(text: str) -> HistgenError | None:
    """Decode an error of ours from the text of a Triton error; None if there is none."""
    _, mark, encoded = text.partition(_MARK)
    if not mark:
        return None
    try:
        value: Mapping[str, Any] = json.JSONDecoder().raw_decode(encoded)[0]
        return _KINDS[value["kind"]](str(value["code"]), str(value["message"]), hint=str(value["hint"]))
    except (ValueError, KeyError, TypeError):
        return None


def check_numpy(version: str) -> None:
    """Raise FatalError("triton-numpy") for numpy 2, with which Triton's Python backend answers nothing."""
    if not version.startswith("1."):
        raise FatalError(
            "triton-numpy",
            f"Triton's Python backend has numpy {version}, not 1.26: with numpy 2 every answer is empty.",
            hint="Run: deploy/setup.sh triton",
        )
