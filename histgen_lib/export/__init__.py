"""Compiling a trained model for the engines that serve it. Needs the extra `train`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histgen_lib.export.onnx import to_onnx

__all__ = ["to_onnx"]


def __getattr__(name: str) -> Any:
    if name != "to_onnx":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.onnx").to_onnx
