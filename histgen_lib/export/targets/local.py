"""Triton's Python backend with ONNX Runtime; no GPU.

<out>/<model>/1/model.py     a few lines: the work is done by histgen_lib.inference.triton_backend
<out>/<model>/1/…            config.json and the networks, unless the repository refers to the model folder
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from histgen_lib.export.repository import (
    CONFIG_PBTXT,
    inputs_text,
    outputs_text,
    parameters_text,
    refuse_foreign,
    warmup_text,
    written,
)
from histgen_lib.inference.wire import BATCHING, FOLDER, THREADS, VERSION
from histgen_lib.models.folder import CONFIG, ModelFolder, open_model_folder
from histgen_lib.models.serving import ServedModel, served_models

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
    """Write all models that a server can host into the repository `out`, each all at once; returns `out`.

    `reference`: refer to the model folder rather than copy its networks. `threads`: cores that each model may
    use; None for all. Raises FatalError: "model-missing", "model-config", "model-incomplete";
    InvalidInputError("export-output") when a folder with a model's name exists that no export wrote.
    """
    folder, repository = open_model_folder(model_folder), Path(out)
    for model in served_models():
        for name in model.files:
            folder.file(name)
        refuse_foreign(repository, model.name)
    for model in served_models():
        _write_model(folder, model, repository, reference=reference, threads=threads)
    return repository


def config_text(folder: ModelFolder, model: ServedModel, parameters: Mapping[str, str]) -> str:
    """Write a model's config.pbtxt, with these parameters in addition to its own."""
    metadata, batching = model.metadata(folder), model.batching
    own = {BATCHING: batching, VERSION: metadata.version}
    return _CONFIG.format(
        name=model.name,
        largest=model.largest,
        inputs=inputs_text(metadata, batching),
        outputs=outputs_text(metadata, batching),
        warmup=warmup_text(metadata, batching),
        parameters=parameters_text(own | dict(parameters)),
    )


def _write_model(
    folder: ModelFolder, model: ServedModel, repository: Path, *, reference: bool, threads: int | None
) -> None:
    parameters = {} if threads is None else {THREADS: str(threads)}
    if reference:
        place = (repository / model.name).resolve()
        parameters[FOLDER] = os.path.relpath(folder.path.resolve(), place)
    with written(repository, model.name) as place:
        (place / "1").mkdir()
        (place / CONFIG_PBTXT).write_text(config_text(folder, model, parameters), encoding="utf-8")
        (place / "1" / "model.py").write_text(_MODEL_PY.format(model=model.name), encoding="utf-8")
        for name in () if reference else (CONFIG, *model.files):
            shutil.copyfile(folder.path / name, place / "1" / name)
