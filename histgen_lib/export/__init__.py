"""Compiling a trained model for the engines that serve it. `to_onnx` needs the extra `train`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histgen_lib.export.local import export_local
    from histgen_lib.export.onnx import to_onnx

__all__ = ["export_local", "to_onnx"]

_ROOMS = {"export_local": "local", "to_onnx": "onnx"}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
