"""Tile encoders by name: each binds weights, preprocessing and licence, so none is used with another's.

"histgen-small"   the encoder shipped with histgen; weights in a model folder
"timm:<name>"     any timm image model, from a local weights file; nothing is downloaded
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.files import sha256_file
from histgen_lib.models.tile_encoder.network import NAME, TileEncoder

_TIMM = "timm:"


@dataclass(frozen=True, eq=False)
class BuiltEncoder:
    """A tile encoder ready to run: uint8[B, H, W, 3] RGB -> float32[B, dim], in evaluation mode."""

    network: nn.Module
    name: str
    sha256: str
    dim: int
    licence: str


class Prepared(nn.Module):
    """A backbone with its own resizing and normalisation in front of it."""

    def __init__(self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], px: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.px = px
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255.0)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255.0)

    def forward(self, tiles: Tensor) -> Tensor:
        """Features float32[B, dim] of tiles uint8[B, H, W, 3]."""
        x = tiles.permute(0, 3, 1, 2).float()
        if x.shape[-2:] != (self.px, self.px):
            x = functional.interpolate(x, (self.px, self.px), mode="bicubic", antialias=True)
        features: Tensor = self.backbone((x - self.mean) / self.std)
        return features


def build_encoder(name: str, weights: Path, description: Mapping[str, Any] | None = None) -> BuiltEncoder:
    """Build the encoder `name` with the weights of a local file (.safetensors, or .pth of tensors only).

    Raises InvalidInputError("encoder-unknown") for names not listed above, FatalError("encoder-weights")
    when the file cannot be read or does not fit, FatalError("encoder-needs-timm").
    """
    if name == NAME:
        encoder = TileEncoder.from_description(description or {"dim": 128})
        _load(encoder, name, weights)
        return BuiltEncoder(encoder.eval(), name, sha256_file(weights), encoder.dim, "Apache-2.0")
    if name.startswith(_TIMM):
        return _build_timm(name, weights)
    raise InvalidInputError(
        "encoder-unknown", f"There is no tile encoder {name!r}.", hint=f"Use {NAME} or {_TIMM}<model name>."
    )


def _build_timm(name: str, weights: Path) -> BuiltEncoder:
    try:
        timm = import_module("timm")
    except ImportError as error:
        raise FatalError(
            "encoder-needs-timm", f"{name} needs timm.", hint="Install histgen with the extra 'train'."
        ) from error
    try:
        backbone = timm.create_model(name.removeprefix(_TIMM), pretrained=False, num_classes=0)
    except RuntimeError as error:
        raise InvalidInputError(
            "encoder-unknown", f"timm has no model {name.removeprefix(_TIMM)}."
        ) from error
    prepared = timm.data.resolve_model_data_config(backbone)
    network = Prepared(backbone, prepared["mean"], prepared["std"], prepared["input_size"][-1])
    licence = str(backbone.pretrained_cfg.get("license") or "see the weights' source")
    _load(backbone, name, weights)
    return BuiltEncoder(network.eval(), name, sha256_file(weights), int(backbone.num_features), licence)


def _load(network: nn.Module, name: str, weights: Path) -> None:
    try:
        tensors = load_file(weights) if weights.suffix == ".safetensors" else _load_pickle(weights)
        network.load_state_dict(tensors)
    except Exception as error:  # safetensors, pickle and torch each raise their own kinds
        raise FatalError(
            "encoder-weights",
            f"{weights.name} does not hold weights of {name} ({str(error).splitlines()[0]}).",
            hint="Give the local weights file of exactly this encoder.",
        ) from error


def _load_pickle(weights: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
    return tensors
