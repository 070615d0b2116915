"""Triton's ONNX Runtime backend for tile_encoder, its Python backend for histgen; a GPU, or none."""

from __future__ import annotations

from histgen_lib.export.graph_models import graph_hosting
from histgen_lib.export.hosting import Hosting, Order, Target
from histgen_lib.export.python_models import processor_hosting, python_hosting


def _host(order: Order) -> Hosting:
    model = order.model
    if model.graph:
        return graph_hosting(order, "onnxruntime")
    if order.device == "cuda" and model.weights:
        return python_hosting(order, model.weights)
    return processor_hosting(order)


# ONNX has no convolution in bfloat16 before opset 22, and the tracing exporter ends at 20.
TARGET = Target("onnxruntime", precisions=("float32", "float16", "int8"), devices=("cuda", "cpu"), host=_host)
