"""Exporting a trained model to the engines that serve it. `to_onnx` needs the extra `train`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histgen_lib.lazy import lazily

if TYPE_CHECKING:
    from histgen_lib.export.onnx import to_onnx
    from histgen_lib.export.targets.local import export_local

__all__ = ["export_local", "to_onnx"]

__getattr__ = lazily(__name__, {"targets.local": "export_local", "onnx": "to_onnx"})
