"""ONNX graphs of others, brought to the form that model folders have: "tiles" in, "features" out."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from onnx import compose, version_converter

from histgen_lib.models.tile_encoder.resampling import Pixels

_OPSET = 17
_PREFIX = "histgen/"


def as_tile_encoder(content: bytes, pixels: Pixels | None, tile_px: int) -> bytes:
    """Return a graph from tiles uint8[B, tile_px, tile_px, 3] to features float32[B, dim].

    `pixels` is put before it where it takes normalised pixels rather than tiles.
    """
    graph = onnx.load_from_string(content)
    if pixels is not None:
        front = _preprocessing(pixels, tile_px, graph)
        joined = [(front.graph.output[0].name, _input(graph).name)]
        graph = compose.merge_models(front, graph, io_map=joined)
    _rename(graph, _input(graph).name, "tiles")
    _rename(graph, graph.graph.output[0].name, "features")
    whole: bytes = graph.SerializeToString()
    return whole


def _preprocessing(pixels: Pixels, tile_px: int, before: Any) -> Any:
    """Export preprocessing at the operator set of the graph that it comes before."""
    tiles = torch.zeros(2, tile_px, tile_px, 3, dtype=torch.uint8)
    with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracing exporter warns of its successor
        path = Path(folder) / "pixels.onnx"
        torch.onnx.export(
            pixels.eval(),
            (tiles,),
            str(path),
            input_names=["tiles"],
            output_names=["pixels"],
            dynamic_axes={"tiles": {0: "B"}, "pixels": {0: "B"}},
            opset_version=_OPSET,
            dynamo=False,
        )
        front = onnx.load(path)
    wanted = next(entry.version for entry in before.opset_import if entry.domain in {"", "ai.onnx"})
    if wanted != _OPSET:
        front = version_converter.convert_version(front, wanted)
    front = compose.add_prefix(front, _PREFIX)
    front.ir_version = before.ir_version
    return front


def _input(graph: Any) -> Any:
    weights = {tensor.name for tensor in graph.graph.initializer}
    return next(value for value in graph.graph.input if value.name not in weights)


def _rename(graph: Any, old: str, new: str) -> None:
    for value in (*graph.graph.input, *graph.graph.output):
        value.name = new if value.name == old else value.name
    for node in graph.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
