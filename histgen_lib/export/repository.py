"""A Triton model repository: one folder a model, each written all at once, and the text of its config.pbtxt.

<out>/<model>/config.pbtxt   the model's tensors, and how requests are batched
<out>/<model>/1/…            what the target's backend loads
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import umask
from histgen_lib.inference.wire import TRITON_TYPES, wire_names
from histgen_lib.models.serving import Batching, ModelMetadata, TensorSpec

CONFIG_PBTXT = "config.pbtxt"


@contextmanager
def written(repository: Path, model: str) -> Iterator[Path]:
    """Lend a folder to write a model into; it replaces the one in the repository when it is complete.

    A server that loads meanwhile finds the old model, the new one, or none.
    """
    repository.mkdir(parents=True, exist_ok=True)
    for left in repository.glob(f".{model}.????????"):
        shutil.rmtree(left)  # of an export that was killed: Triton takes it for a model, and does not start
    folder = Path(tempfile.mkdtemp(prefix=f".{model}.", dir=repository))
    try:
        folder.chmod(0o777 & ~umask())
        yield folder
        _swap(folder, repository / model)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_foreign(repository: Path, model: str) -> None:
    """Raise InvalidInputError("export-output") if a folder with the model's name was not exported."""
    place = repository / model
    if place.exists() and not (place / CONFIG_PBTXT).is_file():
        raise InvalidInputError(
            "export-output",
            f"{place} exists already, and is not an exported model.",
            hint="Give --out another folder.",
        )


def inputs_text(metadata: ModelMetadata, batching: Batching) -> str:
    """Write the `input` lines of a config.pbtxt."""
    return "\n".join(_inputs(metadata, batching))


def outputs_text(metadata: ModelMetadata, batching: Batching) -> str:
    """Write the `output` lines of a config.pbtxt."""
    return "\n".join(_outputs(metadata, batching))


def warmup_text(metadata: ModelMetadata, batching: Batching) -> str:
    """Write the `inputs` of the smallest request, for `model_warmup`."""
    return "\n".join(_warmup(metadata, batching))


def parameters_text(parameters: Mapping[str, str]) -> str:
    """Write the `parameters` lines of a config.pbtxt."""
    return "\n".join(
        f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"
        for key, value in parameters.items()
    )


def _swap(written: Path, place: Path) -> None:
    if place.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        place.rename(old / place.name)
        written.rename(place)
        shutil.rmtree(old)
    else:
        written.rename(place)


def _inputs(metadata: ModelMetadata, batching: Batching) -> Iterator[str]:
    for spec in metadata.inputs:
        names = list(wire_names(spec))
        for name, dtype in names:
            optional = " optional: true" if spec.optional or len(names) > 1 else ""
            ragged = " allow_ragged_batch: true" if batching == "bags" else ""
            yield f"input [ {{ {_tensor(name, dtype, spec, batching)}{optional}{ragged} }} ]"


def _outputs(metadata: ModelMetadata, batching: Batching) -> Iterator[str]:
    for spec in metadata.outputs:
        yield f"output [ {{ {_tensor(spec.name, spec.dtype, spec, batching)} }} ]"


def _warmup(metadata: ModelMetadata, batching: Batching) -> Iterator[str]:
    for spec in metadata.inputs:
        if not spec.optional:
            name, dtype = next(wire_names(spec))
            sizes = _sizes([max(size, 1) for size in _dims(spec, batching)])
            value = f"data_type: TYPE_{TRITON_TYPES[dtype]} dims: {sizes} zero_data: true"
            yield f"  inputs {{ key: {_quoted(name)} value {{ {value} }} }}"


def _tensor(name: str, dtype: str, spec: TensorSpec, batching: Batching) -> str:
    return (
        f"name: {_quoted(name)} data_type: TYPE_{TRITON_TYPES[dtype]} dims: {_sizes(_dims(spec, batching))}"
    )


def _dims(spec: TensorSpec, batching: Batching) -> list[int]:
    """Sizes of a tensor without Triton's batch axis."""
    return list(spec.shape if batching == "bags" else spec.shape[1:])


def _sizes(sizes: list[int]) -> str:
    return f"[ {', '.join(map(str, sizes))} ]"


def _quoted(text: str) -> str:
    return json.dumps(text)
