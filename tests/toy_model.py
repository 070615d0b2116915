"""A copy of the library that serves one more model: one new folder and one changed row, nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import histgen_lib

ROW = 'SERVED = ("histgen", "tile_encoder", "fgcr_image", "fgcr_text")'
"""In histgen_lib/models/serving.py."""

_SERVING = '''\
"""Doubles its input."""

from histgen_lib.models.serving import Misfit, ServedModel, TensorSpec


class Doubler:
    def __init__(self, session):
        self.session = session

    def infer(self, tensors):
        return self.session.run(tensors)


def _runner(folder, compute):
    from histgen_lib.models.serving import OnnxSession

    return Doubler(OnnxSession(folder.file("toy.onnx"), compute.threads))


MODEL = ServedModel(
    name="toy",
    files=("toy.onnx",),
    inputs=lambda folder: (TensorSpec("numbers", "float32", (-1, 3)),),
    outputs=lambda folder: (TensorSpec("doubles", "float32", (-1, 3)),),
    runner=_runner,
    batching="rows",
    largest=4,
    misfits={"numbers": Misfit("toy-numbers", "Give three numbers a row.")},
)
'''

_PROGRAM = """\
import json, sys
import numpy as np
from histgen_lib.errors import HistgenError
from histgen_lib.export import export_local
from histgen_lib.inference import OnnxServer
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.graph_record import record_graphs

folder, repository = sys.argv[1:]
record_graphs(open_model_folder(folder))
export_local(folder, repository)
server = OnnxServer(folder, threads=1)
server.warm("toy")
metadata = server.metadata("toy")
try:
    server.infer("toy", {"numbers": np.zeros((2, 4), np.float32)})
except HistgenError as error:
    misfit = error.code
print(json.dumps({
    "ready": {name: server.ready(name) for name in ("histgen", "tile_encoder", "toy", "astrology")},
    "doubles": server.infer("toy", {"numbers": np.array([[1, 2, 3]], np.float64)})["doubles"].tolist(),
    "misfit": misfit,
    "version": metadata.version,
    "inputs": [[spec.name, spec.dtype, list(spec.shape)] for spec in metadata.inputs],
    "outputs": [[spec.name, spec.dtype, list(spec.shape)] for spec in metadata.outputs],
}))
"""


class _Double(nn.Module):
    def forward(self, numbers: Tensor) -> Tensor:
        return numbers * 2


@dataclass(frozen=True)
class ToyHouse:
    """`site`: the changed library; `model`: a model folder with the toy; `repository`: its export."""

    site: Path
    model: Path
    repository: Path

    def serve(self) -> dict[str, Any]:
        """Export the models with the changed library and run the toy in process; return its results."""
        command = [sys.executable, "-c", _PROGRAM, str(self.model), str(self.repository)]
        environment = os.environ | {"PYTHONPATH": str(self.site)}
        run = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=self.site, env=environment
        )
        found: dict[str, Any] = json.loads(run.stdout)
        return found


def build_toy_house(folder: Path, model_dir: Path) -> ToyHouse:
    """Copy the library into `folder`, and add the toy model to it."""
    library = folder / "site" / "histgen_lib"
    shutil.copytree(
        Path(histgen_lib.__file__).parent,
        library,
        ignore=shutil.ignore_patterns("__pycache__", "pretrained"),
    )
    toy = library / "models" / "toy"
    toy.mkdir()
    (toy / "__init__.py").write_text('"""A toy."""\n')
    (toy / "serving.py").write_text(_SERVING)
    registry = library / "models" / "serving.py"
    rows = registry.read_text()
    assert rows.count(ROW) == 1
    registry.write_text(rows.replace(ROW, ROW.replace(")", ', "toy")')))
    model = Path(shutil.copytree(model_dir, folder / "model"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's deprecation
        torch.onnx.export(
            _Double(),
            (torch.zeros(2, 3),),
            str(model / "toy.onnx"),
            input_names=["numbers"],
            output_names=["doubles"],
            dynamic_axes={"numbers": {0: "B"}, "doubles": {0: "B"}},
            dynamo=False,
        )
    return ToyHouse(folder / "site", model, folder / "repository")
