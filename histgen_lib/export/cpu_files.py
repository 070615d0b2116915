"""Writing the graphs of `cpu_graphs` into a model folder, with dynamic axes for sizes that differ."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from histgen_lib.export.cpu_graphs import (
    ContextGraph,
    PoolingGraph,
    PrototypesGraph,
    RecallGraph,
    RegionsGraph,
    SlideGraph,
    StepGraph,
    WordsGraph,
)
from histgen_lib.files import atomic_path
from histgen_lib.models.histgen.network import HistGen
from histgen_lib.models.histgen.serving import (
    CONTEXT_ONNX,
    POOLING_ONNX,
    PROTOTYPES_ONNX,
    RECALL_ONNX,
    REGIONS_ONNX,
    SLIDE_ONNX,
    STEP_ONNX,
    WORDS_ONNX,
    head_inputs,
    layer_inputs,
)

OPSET = 17

Axes = dict[str, dict[int, str]]


class Graph(NamedTuple):
    """What an export takes: file name, module, example inputs, names of outputs, axes that may vary."""

    file: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]
    axes: Axes


def export_cpu_graphs(model: HistGen, folder: Path) -> list[Path]:
    """Write the graphs of a report network into a folder; returns the files."""
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracing exporter warns of its successor and of our shape arithmetic.
        warnings.simplefilter("ignore")
        return [write_graph(folder / graph.file, graph) for graph in _graphs(model.eval())]


def _graphs(model: HistGen) -> Iterator[Graph]:
    yield from _of_context(model)
    yield from _of_regions(model)
    yield from _of_words(model)
    yield _of_step(model)


def _of_context(model: HistGen) -> Iterator[Graph]:
    c = model.config
    names = [head_inputs(head) for head in range(c.num_heads)]
    scores = {name: torch.zeros(4, c.cmm_size) for name, _ in names}
    dropped = {name: torch.zeros(4, c.cmm_size, dtype=torch.bool) for _, name in names}
    selected = scores | dropped
    yield Graph(
        PROTOTYPES_ONNX,
        PrototypesGraph(model),
        {"features": torch.zeros(4, c.input_dim)},
        list(scores),
        {name: {0: "K"} for name in ("features", *scores)},
    )
    yield Graph(
        CONTEXT_ONNX,
        ContextGraph(model),
        selected,
        ["keys", "values"],
        {"keys": {1: "K"}, "values": {1: "K"}, **{name: {0: "K"} for name in selected}},
    )


def _of_regions(model: HistGen) -> Iterator[Graph]:
    c = model.config
    d, size = c.d_model, c.region_size
    mask = torch.ones(3, size)
    yield Graph(
        REGIONS_ONNX,
        RegionsGraph(model),
        {
            "tiles": torch.zeros(3 * size, c.input_dim),
            "mask": mask,
            "keys": torch.zeros(1, 4, d),
            "values": torch.zeros(1, 4, d),
        },
        ["x"],
        {"tiles": {0: "M"}, "mask": {0: "G"}, "keys": {1: "K"}, "values": {1: "K"}, "x": {0: "G"}},
    )
    yield Graph(
        SLIDE_ONNX,
        SlideGraph(model),
        {"spoken": torch.zeros(5, d), "rows": torch.arange(3)},
        ["heard"],
        {"spoken": {0: "R"}, "rows": {0: "M"}, "heard": {0: "M"}},
    )
    yield Graph(
        POOLING_ONNX,
        PoolingGraph(model),
        {"x": torch.zeros(3, size, d), "mask": mask},
        ["tile_weights", "cross"],
        {name: {0: "G"} for name in ("x", "mask", "tile_weights", "cross")},
    )


def _of_words(model: HistGen) -> Iterator[Graph]:
    c = model.config
    yield Graph(
        WORDS_ONNX,
        WordsGraph(model),
        {"tokens": torch.zeros(4, dtype=torch.int64), "place": torch.zeros(1, dtype=torch.int64)},
        ["embedded", "scores"],
        {"tokens": {0: "M"}, "embedded": {0: "M"}, "scores": {1: "M"}},
    )
    yield Graph(
        RECALL_ONNX,
        RecallGraph(model),
        {
            "embedded": torch.zeros(4, c.d_model),
            "scores": torch.zeros(c.num_heads, 4, c.cmm_size),
            "dropped": torch.zeros(c.num_heads, 4, c.cmm_size, dtype=torch.bool),
        },
        ["words"],
        {"embedded": {0: "M"}, "scores": {1: "M"}, "dropped": {1: "M"}, "words": {0: "M"}},
    )


def _of_step(model: HistGen) -> Graph:
    c = model.config
    heads, width = c.num_heads, c.d_model // c.num_heads
    inputs = {"words": torch.zeros(3, c.d_model), "bias": torch.zeros(3, 1, 1, 7)}
    axes: Axes = {"words": {0: "B"}, "bias": {0: "B", 3: "C"}}
    axes |= {"log_probs": {0: "B"}, "attention": {0: "B", 1: "R"}, "present": {0: "B"}}
    for layer in range(c.num_layers):
        keys, values, cross_keys, cross_values = layer_inputs(layer)
        inputs |= {
            keys: torch.zeros(heads, width, 7),
            values: torch.zeros(heads, 7, width),
            cross_keys: torch.zeros(heads, width, 5),
            cross_values: torch.zeros(heads, 5, width),
        }
        axes |= {keys: {2: "C"}, values: {1: "C"}, cross_keys: {2: "R"}, cross_values: {1: "R"}}
    return Graph(STEP_ONNX, StepGraph(model), inputs, ["log_probs", "attention", "present"], axes)


def write_graph(path: Path, graph: Graph) -> Path:
    """Export one graph, all or nothing; return its file."""
    with atomic_path(path) as written:
        torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            str(written),
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            dynamic_axes=graph.axes,
            opset_version=OPSET,
            dynamo=False,
        )
    return path
