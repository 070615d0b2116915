"""Image models of timm as tile encoders, each with the resizing and normalisation it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.models.tile_encoder.registry import TileNetwork


class TimmEncoder(TileNetwork):
    """A timm backbone with its preprocessing in front of it. Weights files hold the backbone alone."""

    def __init__(
        self,
        name: str,
        backbone: nn.Module,
        *,
        dim: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        px: int,
        licence: str,
    ) -> None:
        super().__init__()
        self.name, self.backbone, self.input_px = f"timm:{name}", backbone, px
        self.dim = dim
        self.licence = licence
        self.size = (px, px)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255.0)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255.0)

    def describe(self) -> dict[str, Any]:
        """See `TileNetwork.describe`."""
        return {"name": self.name, "architecture": self.name, "dim": self.dim}

    def state_to_load(self) -> nn.Module:
        """See `TileNetwork.state_to_load`."""
        return self.backbone

    def forward(self, tiles: Tensor) -> Tensor:
        """Features float32[B, dim] of tiles uint8[B, H, W, 3]."""
        x = tiles.permute(0, 3, 1, 2).float()
        if x.shape[-2:] != self.size:
            x = functional.interpolate(x, self.size, mode="bicubic", antialias=True)
        features: Tensor = self.backbone((x - self.mean) / self.std)
        return features


def build(name: str, _: Mapping[str, Any]) -> TimmEncoder:
    """Build timm's model `name` with fresh weights.

    Raises FatalError("encoder-needs-timm"), InvalidInputError("encoder-unknown").
    """
    try:
        timm = import_module("timm")
    except ImportError as error:
        raise FatalError(
            "encoder-needs-timm", f"timm:{name} needs timm.", hint="Install histgen with the extra 'train'."
        ) from error
    try:
        backbone = timm.create_model(name, pretrained=False, num_classes=0)
    except RuntimeError as error:
        raise InvalidInputError("encoder-unknown", f"timm has no model {name}.") from error
    data = timm.data.resolve_model_data_config(backbone)
    return TimmEncoder(
        name,
        backbone,
        dim=int(backbone.num_features),
        mean=data["mean"],
        std=data["std"],
        px=data["input_size"][-1],
        licence=str(backbone.pretrained_cfg.get("license") or "see the weights' source"),
    )
