"""A small convolutional tile encoder for CPUs: plain 3×3 convolutions that oneDNN runs fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.models.tile_encoder.registry import DEFAULT, TileNetwork

DIM = 128
"""Width of the features."""

WIDTHS = (32, 64, 128)
"""Channels at a quarter, an eighth and a sixteenth of the tile's side."""

BLOCKS = (1, 2, 2)
"""Convolutions at each of these scales, after the one that reaches it."""

PATCH_PX = 4


class PatchStem(nn.Module):
    """From pixels to one vector for each 4×4 px patch.

    Pixels are scaled by scaling the weights; the norm removes their offset.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, outputs, PATCH_PX, PATCH_PX, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, tiles: Tensor) -> Tensor:
        """uint8[B, 3, H, W] -> [B, outputs, H/4, W/4] in the weights' type."""
        weight = self.conv.weight * (2.0 / 255.0)
        pixels = tiles.to(weight.dtype)
        return functional.relu(self.norm(functional.conv2d(pixels, weight, stride=PATCH_PX)))


class ConvBlock(nn.Module):
    """3×3 convolution, batch norm (foldable into it), ReLU; added to its input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H/stride, W/stride]."""
        found = functional.relu(self.norm(self.conv(x)))
        return x + found if self.residual else found


class TileEncoder(TileNetwork):
    """uint8[B, H, W, 3] RGB (or [B, 3, H, W]) -> float32[B, dim]; preprocessing is part of the graph.

    H and W are multiples of 16; the shipped model takes 256 px at 0.5 mpp. The feature combines the mean and
    the maximum over the tile: the first for tissue, the second for single cells such as a mitosis.
    """

    licence = "Apache-2.0"

    def __init__(
        self, dim: int = DIM, widths: tuple[int, ...] = WIDTHS, blocks: tuple[int, ...] = BLOCKS
    ) -> None:
        super().__init__()
        self.dim, self.widths, self.blocks = dim, widths, blocks
        layers: list[nn.Module] = [PatchStem(widths[0])]
        for scale, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            if scale:
                layers.append(ConvBlock(widths[scale - 1], width, stride=2))
            layers += [ConvBlock(width, width) for _ in range(count)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * widths[-1], dim)
        self.to(memory_format=torch.channels_last)

    def describe(self) -> dict[str, Any]:
        """See `TileNetwork.describe`."""
        return {"name": DEFAULT, "dim": self.dim, "widths": list(self.widths), "blocks": list(self.blocks)}

    def forward(self, tiles: Tensor) -> Tensor:
        """Return features float32[B, dim] of tiles uint8[B, H, W, 3] or uint8[B, 3, H, W]."""
        x = self.feature_map(tiles)
        pooled = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        features: Tensor = self.head(pooled).float()
        return features

    def feature_map(self, tiles: Tensor) -> Tensor:
        """Return the last convolution's output [B, widths[-1], H/16, W/16], for dense training targets."""
        tiles = tiles.to(self.head.weight.dtype)  # before they are turned: TensorRT turns no uint8
        if tiles.shape[-1] == 3:
            tiles = tiles.permute(0, 3, 1, 2)
        out: Tensor = self.body(tiles)
        return out


def build(_: str, description: Mapping[str, Any]) -> TileEncoder:
    """Rebuild, with fresh weights, from `TileEncoder.describe`'s values."""
    return TileEncoder(
        int(description.get("dim", DIM)),
        tuple(description.get("widths", WIDTHS)),
        tuple(description.get("blocks", BLOCKS)),
    )
