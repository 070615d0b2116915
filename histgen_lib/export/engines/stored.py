"""Tile encoders that are compiled as their model folder stores them: traced, or the graph that they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from histgen_lib.export.engines.graphs import EngineGraph, tile_encoder_graph
from histgen_lib.export.graph_models import copy_with_outputs
from histgen_lib.models.engines.record import is_a_graph
from histgen_lib.models.folder import ModelFolder
from histgen_lib.models.histgen.checkpoint import load_tile_encoder
from histgen_lib.models.serving import Precision
from histgen_lib.models.tile_encoder.serving import TILE_ENCODER_ONNX


def folder_tile_graph(folder: ModelFolder) -> EngineGraph:
    """Describe a model folder's tile encoder: traced in the format asked for, or the graph that it is.

    A stored graph (in int8, or another's) computes as it states, whatever is asked for.
    """

    def stored(path: Path, _: Precision) -> Path:
        copied = path.with_name(TILE_ENCODER_ONNX)  # by which it finds the weights beside it
        copy_with_outputs(folder.file(TILE_ENCODER_ONNX), copied, ())
        return copied

    traced = tile_encoder_graph(lambda: load_tile_encoder(folder.path), int(folder.tiling["tile_px"]))
    return replace(traced, write=stored) if is_a_graph(folder) else traced
