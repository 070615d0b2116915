"""Models that Triton's Python backend runs: a few lines of Python, and what they need of the model folder.

<out>/<model>/1/model.py     the work is done by histgen_lib.inference.triton_backend
<out>/<model>/1/…            config.json and the networks, unless the repository refers to the model folder
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from histgen_lib.export.hosting import Hosting, Order
from histgen_lib.inference.wire import DEVICE, FOLDER, PRECISION, THREADS
from histgen_lib.models.folder import CONFIG
from histgen_lib.models.graph_record import GRAPHS

MODEL_PY = "model.py"

_MODEL_PY = '''\
"""The {model} model for Triton's Python backend."""

import os
import sys

# The backend's Python ignores PYTHONPATH. At the end: numpy has to be that of its own environment.
sys.path += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))

from histgen_lib.inference.triton_backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def processor_hosting(order: Order) -> Hosting:
    """Host a model without a GPU, on ONNX Runtime. Raises FatalError("model-incomplete")."""
    on_cpu = replace(order, device="cpu", precision="float32")
    return python_hosting(on_cpu, order.model.files, order.model.beside)


def python_hosting(
    order: Order,
    needed: Iterable[str],
    beside: Iterable[str] = (),
    *,
    parameters: Mapping[str, str] | None = None,
) -> Hosting:
    """Host a model by the Python backend, with these files of its folder; those `beside` only if present.

    Raises FatalError("model-incomplete").
    """
    folder = order.folder
    named = [CONFIG, *needed]
    if any(name.endswith(".onnx") for name in named):
        named.append(GRAPHS)
    files = [folder.file(name).relative_to(folder.path) for name in named]
    files += [Path(name) for name in beside if (folder.path / name).is_file()]
    return Hosting(
        "python",
        partial(_write, order, files),
        order.model.largest,
        order.device,
        parameters=_parameters(order) | dict(parameters or {}),
    )


def _parameters(order: Order) -> dict[str, str]:
    found = {} if order.threads is None else {THREADS: str(order.threads)}
    if order.device != "cpu":
        found |= {DEVICE: order.device, PRECISION: order.network_precision}
    if order.reference:
        found[FOLDER] = os.path.relpath(order.folder.path.resolve(), order.place.resolve())
    return found


def _write(order: Order, files: Iterable[Path], place: Path) -> None:
    (place / MODEL_PY).write_text(_MODEL_PY.format(model=order.model.name), encoding="utf-8")
    for file in () if order.reference else files:
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(order.folder.path / file, place / file)
