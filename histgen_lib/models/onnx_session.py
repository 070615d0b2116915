"""ONNX Runtime sessions as the models use them: on the CPU, with a stated number of threads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime

from histgen_lib.errors import FatalError


class OnnxSession:
    """One network file, ready to run. Raises FatalError("model-onnx") when it cannot be loaded."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
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
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
