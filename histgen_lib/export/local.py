"""A model folder as a repository for Triton's Python backend with ONNX Runtime: no GPU needed.

<out>/<model>/config.pbtxt   what the model takes and gives, and how requests are put together
<out>/<model>/1/model.py     a few lines: the work is done by histgen_lib.inference.triton_backend
<out>/<model>/1/…            config.json and the networks, unless the repository refers to the model folder
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import umask
from histgen_lib.inference import ModelMetadata, TensorSpec
from histgen_lib.inference._onnx import FILES
from histgen_lib.inference._specs import MODELS, describe
from histgen_lib.inference.wire import (
    BATCHING,
    FOLDER,
    THREADS,
    TRITON_TYPES,
    VERSION,
    Batching,
    wire_names,
)
from histgen_lib.models.histgen.folder import CONFIG, ModelFolder, open_model_folder

_BATCHING: Mapping[str, Batching] = {"tile_encoder": "rows", "histgen": "bags"}
_LARGEST = {"tile_encoder": 64, "histgen": 8}
"""Tiles, or bags, that the server hands over at once."""

_MODEL_PY = '''\
"""The {model} model for Triton's Python backend."""

import os
import sys

# The backend's Python ignores PYTHONPATH. At the end: numpy has to be that of its own environment.
sys.path += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))

from histgen_lib.inference.triton_backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''

_CONFIG = """\
# Written by `histgen export --target local`; change the exporter, not this.
name: "{name}"
backend: "python"
max_batch_size: {largest}
{inputs}
{outputs}
# Answers do not depend on what is put together. No queue policy: with one, tritonserver 2.51 lets about one
# request in a hundred wait for half a second.
dynamic_batching {{ }}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
# The model counts as loaded once it has answered this.
model_warmup [ {{
  name: "smallest"
  batch_size: 1
{warmup}
}} ]
{parameters}
"""


def export_local(
    model_folder: Path | str, out: Path | str, *, reference: bool = False, threads: int | None = None
) -> Path:
    """Write tile_encoder/ and histgen/ into the repository `out`, each all at once; returns `out`.

    `reference`: refer to the model folder rather than copy its networks. `threads`: cores that each model may
    use; None for all. Raises FatalError: "model-missing", "model-config", "model-incomplete";
    InvalidInputError("export-output") when a folder of that name is there that no export wrote.
    """
    folder, repository = open_model_folder(model_folder), Path(out)
    for model in MODELS:
        for name in FILES[model]:
            folder.file(name)
        _refuse_foreign(repository / model)
    for model in MODELS:
        _write_model(folder, model, repository, reference=reference, threads=threads)
    return repository


def config_text(folder: ModelFolder, model: str, parameters: Mapping[str, str]) -> str:
    """Write a model's config.pbtxt, with these parameters besides its own."""
    metadata = describe(folder, model)
    batching = _BATCHING[model]
    own = {BATCHING: batching, VERSION: metadata.version}
    return _CONFIG.format(
        name=model,
        largest=_LARGEST[model],
        inputs="\n".join(_inputs(metadata, batching)),
        outputs="\n".join(_outputs(metadata, batching)),
        warmup="\n".join(_warmup(metadata, batching)),
        parameters="\n".join(
            f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"
            for key, value in (own | dict(parameters)).items()
        ),
    )


def _write_model(
    folder: ModelFolder, model: str, repository: Path, *, reference: bool, threads: int | None
) -> None:
    place = repository / model
    parameters = {} if threads is None else {THREADS: str(threads)}
    if reference:
        parameters[FOLDER] = os.path.relpath(folder.path.resolve(), place.resolve())
    repository.mkdir(parents=True, exist_ok=True)
    for left in repository.glob(f".{model}.????????"):
        shutil.rmtree(left)  # of an export that was killed: Triton takes it for a model, and does not start
    written = Path(tempfile.mkdtemp(prefix=f".{model}.", dir=repository))
    try:
        written.chmod(0o777 & ~umask())
        (written / "1").mkdir()
        (written / "config.pbtxt").write_text(config_text(folder, model, parameters), encoding="utf-8")
        (written / "1" / "model.py").write_text(_MODEL_PY.format(model=model), encoding="utf-8")
        for name in () if reference else (CONFIG, *FILES[model]):
            shutil.copyfile(folder.path / name, written / "1" / name)
        _swap(written, place)
    finally:
        shutil.rmtree(written, ignore_errors=True)


def _swap(written: Path, place: Path) -> None:
    """Put a folder in another's place: a server that loads meanwhile finds the one, the other, or none."""
    if place.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        place.rename(old / place.name)
        written.rename(place)
        shutil.rmtree(old)
    else:
        written.rename(place)


def _refuse_foreign(place: Path) -> None:
    if place.exists() and not (place / "config.pbtxt").is_file():
        raise InvalidInputError(
            "export-output",
            f"{place} is there already, and is no exported model.",
            hint="Give --out another folder.",
        )


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
