"""Exporting a model folder's networks to ONNX, with dynamic axes for sizes that differ between slides."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from histgen_lib.export.cpu_files import export_cpu_graphs
from histgen_lib.files import atomic_path
from histgen_lib.models.folder import TILE_ENCODER_WEIGHTS, open_model_folder
from histgen_lib.models.histgen.checkpoint import load_model, load_tile_encoder
from histgen_lib.models.tile_encoder.serving import TILE_ENCODER_ONNX

OPSET = 17

Axes = dict[str, dict[int, str]]


def to_onnx(model_folder: Path | str) -> list[Path]:
    """Write the report network's graphs and, if the folder has an encoder, tile_encoder.onnx.

    Returns the files written. Raises as `load_model`.
    """
    folder = Path(model_folder)
    written = export_cpu_graphs(load_model(folder), folder)
    opened = open_model_folder(folder)
    if (folder / TILE_ENCODER_WEIGHTS).is_file():
        tile_px = int(opened.tiling["tile_px"])
        written.append(export_tile_encoder(load_tile_encoder(folder), folder / TILE_ENCODER_ONNX, tile_px))
    return written


def export_tile_encoder(network: nn.Module, path: Path, tile_px: int) -> Path:
    """Export a network from uint8[B, tile_px, tile_px, 3] to float32[B, D]."""
    tiles = torch.zeros(2, tile_px, tile_px, 3, dtype=torch.uint8)
    axes: Axes = {"tiles": {0: "B"}, "features": {0: "B"}}
    return _write(path, network, {"tiles": tiles}, ["features"], axes)


def _write(path: Path, network: nn.Module, inputs: dict[str, Tensor], outputs: list[str], axes: Axes) -> Path:
    with atomic_path(path) as written, warnings.catch_warnings(), torch.inference_mode():
        # The tracing exporter warns of its successor and of our shape arithmetic.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            tuple(inputs.values()),
            str(written),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    return path
