"""What Triton's Python backend lends to a model, without Triton."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from histgen_lib.inference import triton_backend, wire


@dataclass
class Request:
    """A request as Triton hands it over: its tensors, and for which version of the model it is."""

    tensors: Mapping[str, np.ndarray]
    version: str
    cancelled: bool = False

    def is_cancelled(self) -> bool:
        return self.cancelled

    def parameters(self) -> str:
        return json.dumps({wire.VERSION: self.version})


class TritonError(str):
    """An error in place of an answer: its text."""

    INVALID_ARG, UNAVAILABLE, INTERNAL = "invalid", "unavailable", "internal"

    def __new__(cls, text: str, _: str) -> TritonError:
        return super().__new__(cls, text)


def _tensor(request: Request, name: str) -> Any:
    found = request.tensors.get(name)
    return None if found is None else SimpleNamespace(as_numpy=lambda: found)


def read_config(path: Path) -> Any:
    """Read a config.pbtxt as Triton does."""
    return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def initialised(
    name: str, place: Path, config: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> triton_backend.TritonPythonModel:
    """Initialise a model of the Python backend on this machine's CPU; answers are dictionaries of tensors."""
    triton: Any = SimpleNamespace(
        get_input_tensor_by_name=_tensor,
        Tensor=lambda tensor, value: (tensor, value),
        InferenceResponse=lambda tensors=(), error=None: error or dict(tensors),
        TritonError=TritonError,
        TritonModelException=RuntimeError,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    monkeypatch.setattr(triton_backend, "_end_with", lambda _server: None)
    monkeypatch.setattr(triton_backend, "check_numpy", lambda _version: None)
    model = triton_backend.TritonPythonModel()
    model.initialize(
        {
            "model_name": name,
            "model_repository": str(place),
            "model_config": json.dumps(config),
            "model_instance_kind": "CPU",
        }
    )
    return model


def exported(
    repository: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> triton_backend.TritonPythonModel:
    """Initialise a model of a repository with its own configuration."""
    message = read_config(repository / name / "config.pbtxt")
    config = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return initialised(name, repository / name, config, monkeypatch)
