"""The tiny model, compiled for a GPU in host memory (`fake_gpu`) by the code that compiles for a real one."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from fake_gpu import HostDevice, Wrong, fake_tensorrt

from histgen_lib.export.engines import compile as compiling
from histgen_lib.export.engines import measure
from histgen_lib.export.engines.compile import CompileSettings, compile_model
from histgen_lib.models.engines.flavours import flavour
from histgen_lib.models.engines.record import EngineRecord
from histgen_lib.models.engines.serving import Machine
from histgen_lib.models.serving import Precision

MOST_TILES = 400
BATCHES = (8, 16)


def fake_machine(version: str = "10.6.0", capability: str = "9.0", wrong: Wrong | None = None) -> Machine:
    """Make a machine with a GPU in host memory and a TensorRT that loads ONNX files."""
    device = HostDevice(capability)
    return Machine(flavour("tensorrt"), fake_tensorrt(device, version, wrong), device)


@contextmanager
def standing_in(machine: Machine) -> Iterator[Machine]:
    """Have `histgen compile` find this machine's GPU and TensorRT."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", machine.trt)
        patch.setattr(compiling, "CudaDevice", lambda: machine.device)
        patch.setattr(measure, "BATCHES", BATCHES)
        yield machine


def compile_on(
    machine: Machine, model: Path, precision: Precision = "float32", **more: Any
) -> list[EngineRecord]:
    """Compile a model there."""
    with standing_in(machine):
        settings = CompileSettings("tensorrt", precision, most_tiles=MOST_TILES, **more)
        return compile_model(model, settings, lambda line: None)


@cache
def compiled_tiny() -> Path:
    """Return the tiny model with its engines, in float32: do not change it."""
    folder = Path(tempfile.mkdtemp(prefix="histgen-compiled-")) / "tiny"
    shutil.copytree(tiny_model.tiny_model(), folder)
    compile_on(fake_machine(), folder)
    return folder
