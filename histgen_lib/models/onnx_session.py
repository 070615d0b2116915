"""ONNX Runtime sessions as the models use them: on the CPU, with a stated number of threads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from histgen_lib.errors import FatalError

_NO_ROOM = ("Failed to allocate memory", "bad_alloc")
"""Words of ONNX Runtime when it is out of memory, in errors of several classes."""


class OnnxSession:
    """One network file, ready to run. Raises FatalError("model-onnx") when it cannot be loaded.

    `run` raises the same for inputs that the network does not take (its shapes follow from config.json), and
    MemoryError when there is too little memory.
    `shrink`: return memory after each run rather than keep it for the next (a large slide takes a GB).
    """

    def __init__(self, path: Path, threads: int | None = None, *, shrink: bool = False) -> None:
        self._name = path.name
        self._options = onnxruntime.RunOptions()
        if shrink:
            self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime raises a class of its own for each status
            raise FatalError(
                "model-onnx",
                f"{path.name} cannot be loaded by ONNX Runtime ({type(error).__name__}).",
                hint="Export the model again (histgen_lib.export.to_onnx), or fetch it again.",
            ) from error

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run the network; outputs by name."""
        names = [output.name for output in self._session.get_outputs()]
        try:
            found = self._session.run(names, dict(inputs), self._options)
        except InvalidArgument as error:
            raise FatalError(
                "model-onnx",
                f"{self._name} does not take what config.json states.",
                hint="The files are of different models: run histgen model export, or fetch the model again.",
            ) from error
        except Exception as error:
            if any(words in str(error) for words in _NO_ROOM):
                raise MemoryError from error
            raise
        return dict(zip(names, found, strict=True))
