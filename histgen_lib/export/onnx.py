"""Exporting a model folder's networks to ONNX, with dynamic axes for sizes that differ between slides."""

from __future__ import annotations

from pathlib import Path

from histgen_lib.export.cpu_files import export_cpu_graphs
from histgen_lib.export.retrieval_graphs import export_retrieval_graphs
from histgen_lib.export.tile_graph import export_tile_encoder
from histgen_lib.models.fgcr.checkpoint import load_retrieval
from histgen_lib.models.folder import RETRIEVAL_WEIGHTS, TILE_ENCODER_WEIGHTS, open_model_folder
from histgen_lib.models.graph_record import record_graphs, renew_graphs
from histgen_lib.models.histgen.checkpoint import load_model, load_tile_encoder
from histgen_lib.models.tile_encoder.serving import QUANTISATION, TILE_ENCODER_ONNX


def to_onnx(model_folder: Path | str) -> list[Path]:
    """Write the graphs of the report network, and of tile encoder and retrieval network if it has them.

    An encoder in int8 stays as it is: its graph cannot be traced. graphs.json then says what all were made
    of. Returns the ONNX files written. Raises as `load_model`.
    """
    folder = Path(model_folder)
    written = export_cpu_graphs(load_model(folder), folder)
    opened = open_model_folder(folder)
    if (folder / TILE_ENCODER_WEIGHTS).is_file() and not opened.encoder.get(QUANTISATION):
        tile_px = int(opened.tiling["tile_px"])
        written.append(export_tile_encoder(load_tile_encoder(folder), folder / TILE_ENCODER_ONNX, tile_px))
    if (folder / RETRIEVAL_WEIGHTS).is_file():
        written += export_retrieval_graphs(load_retrieval(folder), folder)
    record_graphs(opened)
    return written


def retrieval_to_onnx(model_folder: Path | str) -> list[Path]:
    """Write the graphs of the retrieval network alone, and what graphs.json says of them; returns them.

    Raises as `load_retrieval`; FatalError("model-onnx") if graphs.json cannot be read.
    """
    folder = Path(model_folder)
    written = export_retrieval_graphs(load_retrieval(folder), folder)
    names = [RETRIEVAL_WEIGHTS, *(path.name for path in written)]
    renew_graphs(open_model_folder(folder), names, "retrieval")
    return written
