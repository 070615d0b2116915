"""Models that are one graph, which a server's own backend runs: no Python between request and network."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from histgen_lib.errors import FatalError
from histgen_lib.export.external_data import data_path
from histgen_lib.export.hosting import INT8, Hosting, Order
from histgen_lib.inference.wire import PRECISION
from histgen_lib.models.serving import TensorSpec

if TYPE_CHECKING:
    from onnx import GraphProto

LARGEST = 128
"""Rows of a batch on a GPU: an H100 ran DINOv2 ViT-L/14 no faster in batches of 256 (TensorRT 10.6)."""


def graph_hosting(order: Order, backend: str) -> Hosting:
    """Host a model that is one graph by a backend that reads ONNX.

    Raises FatalError: "model-incomplete"; "extra-train-missing" where the graph has to be traced or changed.
    """
    _check(order)
    return Hosting(
        backend,
        partial(_write, order),
        LARGEST if order.device == "cuda" else order.model.largest,
        order.device,
        parameters={PRECISION: order.precision},
        model_file=order.model.graph,
    )


def _check(order: Order) -> None:
    from importlib.util import find_spec

    model, traced = order.model, order.precision not in ("float32", INT8)
    for name in model.weights if traced else (model.graph,):
        order.folder.file(name)
    if find_spec("torch" if traced else "onnx") is None:
        raise FatalError(
            "extra-train-missing",
            "Writing a graph for another engine needs the extra `train`, which is not installed.",
            hint="In a checkout run `make setup`; elsewhere: pip install 'histgen[train]'",
        )


def _write(order: Order, place: Path) -> None:
    model = order.model
    graph = place / model.graph
    if order.network_precision == "float32":
        copy_with_outputs(order.folder.path / model.graph, graph, model.outputs(order.folder))
    else:
        from histgen_lib.export.tile_graph import typed_graph  # torch is heavy

        typed_graph(order.folder, graph, order.network_precision)


def copy_with_outputs(source: Path, target: Path, outputs: tuple[TensorSpec, ...]) -> None:
    """Copy a graph, and the weights beside it, with outputs of the types that a model's outputs have.

    The file's name stays, by which the graph refers to its weights.
    """
    import onnx
    from onnx import TensorProto

    model = onnx.load(str(source), load_external_data=False)
    for spec in outputs:
        _retype(model.graph, spec.name, TensorProto.DataType.Value(_ONNX_TYPES[spec.dtype]))
    target.write_bytes(model.SerializeToString())
    if data_path(source).is_file():
        shutil.copyfile(data_path(source), data_path(target))


_ONNX_TYPES = {"float16": "FLOAT16", "float32": "FLOAT", "int32": "INT32", "int64": "INT64", "uint8": "UINT8"}


def _retype(graph: GraphProto, name: str, element: int) -> None:
    """Cast an output of a graph to a type, unless it has it."""
    from onnx import helper

    [output] = [value for value in graph.output if value.name == name]
    if output.type.tensor_type.elem_type == element:
        return
    inner = f"{name}_as_computed"
    for node in graph.node:
        node.input[:] = [inner if one == name else one for one in node.input]
        node.output[:] = [inner if one == name else one for one in node.output]
    graph.node.append(helper.make_node("Cast", [inner], [name], name=f"{name}_cast", to=element))
    output.type.tensor_type.elem_type = element
