"""Exporting a model folder's networks to ONNX, with dynamic axes for sizes that differ between slides."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from histgen_lib.export.tile_graph import OPSET, export_tile_encoder
from histgen_lib.files import atomic_path
from histgen_lib.models.folder import TILE_ENCODER_WEIGHTS, open_model_folder
from histgen_lib.models.histgen.checkpoint import load_model, load_tile_encoder
from histgen_lib.models.histgen.network import HistGen
from histgen_lib.models.histgen.serving import DECODER_ONNX, ENCODER_ONNX
from histgen_lib.models.tile_encoder.serving import TILE_ENCODER_ONNX

Axes = dict[str, dict[int, str]]


class EncoderGraph(nn.Module):
    """One slide: from laid-out tiles to their shares in regions, and the decoder's keys and values."""

    def __init__(self, model: HistGen) -> None:
        super().__init__()
        self.model = model

    def forward(self, tiles: Tensor, mask: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode tiles float32[R, P, D], mask bool[R, P], prototypes int64[K] -> regions, shares, cross."""
        slots = self.model.memory_slots()
        memory = self.model.encode_regions(tiles[None], mask[None], prototypes[None], slots)
        return memory.regions[0], memory.tile_weights[0], self.model.decoder.cross(memory.regions)


class DecoderGraph(nn.Module):
    """One decoding step: a token for each of B beams of S slides."""

    def __init__(self, model: HistGen) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, past: Tensor, cross: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Step tokens int64[S, B] with caches -> log_probs [S, B, V+1], attention [S, B, R], cache."""
        out = self.model.step(tokens, past, cross, valid, self.model.memory_slots())
        return out.words, out.attention, out.cache


def to_onnx(model_folder: Path | str) -> list[Path]:
    """Write histgen_encoder.onnx, histgen_decoder.onnx and, if the folder has an encoder, tile_encoder.onnx.

    Returns the files written. Raises as `load_model`.
    """
    folder = Path(model_folder)
    model = load_model(folder)
    written = [_export_encoder(model, folder / ENCODER_ONNX), _export_decoder(model, folder / DECODER_ONNX)]
    opened = open_model_folder(folder)
    if (folder / TILE_ENCODER_WEIGHTS).is_file():
        tile_px = int(opened.tiling["tile_px"])
        written.append(export_tile_encoder(load_tile_encoder(folder), folder / TILE_ENCODER_ONNX, tile_px))
    return written


def _export_encoder(model: HistGen, path: Path) -> Path:
    config = model.config
    inputs = {
        "tiles": torch.zeros(3, config.tiles_per_region, config.input_dim),
        "mask": torch.ones(3, config.tiles_per_region, dtype=torch.bool),
        "prototypes": torch.zeros(config.prototype_num, dtype=torch.int64),
    }
    axes: Axes = {
        "tiles": {0: "R"},
        "mask": {0: "R"},
        "prototypes": {0: "K"},
        "regions": {0: "R"},
        "tile_weights": {0: "R"},
        "cross": {4: "R"},
    }
    return _write(path, EncoderGraph(model), inputs, ["regions", "tile_weights", "cross"], axes)


def _export_decoder(model: HistGen, path: Path) -> Path:
    config = model.config
    heads, width = config.num_heads, config.d_model // config.num_heads
    inputs = {
        "tokens": torch.zeros(2, 3, dtype=torch.int64),
        "past": torch.zeros(config.num_layers, 2, 2, 3, heads, 5, width),
        "cross": torch.zeros(config.num_layers, 2, 2, heads, 4, width),
        "valid": torch.ones(2, 4, dtype=torch.bool),
    }
    axes: Axes = {
        "tokens": {0: "S", 1: "B"},
        "past": {2: "S", 3: "B", 5: "T"},
        "cross": {2: "S", 4: "R"},
        "valid": {0: "S", 1: "R"},
        "log_probs": {0: "S", 1: "B"},
        "attention": {0: "S", 1: "B", 2: "R"},
        "present": {2: "S", 3: "B", 5: "U"},
    }
    return _write(path, DecoderGraph(model), inputs, ["log_probs", "attention", "present"], axes)


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
