"""Tile encoders that are compiled as their model folder stores them: int8 cannot be traced from weights."""

from __future__ import annotations

from pathlib import Path

from histgen_lib.export.engines.graphs import EngineGraph, tile_encoder_graph
from histgen_lib.export.graph_models import copy_with_outputs
from histgen_lib.models.folder import ModelFolder
from histgen_lib.models.histgen.checkpoint import load_tile_encoder
from histgen_lib.models.serving import Precision
from histgen_lib.models.tile_encoder.serving import QUANTISATION, TILE_ENCODER_ONNX


def folder_tile_graph(folder: ModelFolder) -> EngineGraph:
    """Describe a model folder's tile encoder: traced in the format asked for, or in int8 as it is stored.

    What is not quantised in a stored graph computes in float32, whatever is asked for.
    """

    def stored(path: Path, _: Precision) -> Path:
        copy_with_outputs(folder.file(TILE_ENCODER_ONNX), path, ())
        return path

    traced = tile_encoder_graph(lambda: load_tile_encoder(folder.path), int(folder.tiling["tile_px"]))
    if not folder.encoder.get(QUANTISATION):
        return traced
    return EngineGraph(traced.name, stored, traced.profiles, traced.sizes)
