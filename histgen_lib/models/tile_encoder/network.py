"""A small convolutional tile encoder for CPUs: plain 3×3 convolutions that oneDNN runs fast."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (24, 48, 96, 160)
"""Channels after each halving of the tile's side."""


class ConvBlock(nn.Module):
    """3×3 convolution, batch norm (foldable into it), ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H/stride, W/stride]."""
        return functional.relu(self.norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """Two convolutions whose result is added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ConvBlock(width, width, 1)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        return functional.relu(x + self.norm(self.conv(self.first(x))))


class TileEncoder(nn.Module):
    """uint8[B, H, W, 3] RGB (or [B, 3, H, W]) -> float32[B, dim]; scaling of pixels is part of the graph.

    H and W multiples of 16, 256 at 0.5 mpp in the shipped model. Mean and maximum over the tile are both
    kept: the first for tissue, the second for single cells such as a mitosis.
    """

    def __init__(self, dim: int = 128, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.dim = dim
        layers: list[nn.Module] = [ConvBlock(3, widths[0], 2), ConvBlock(widths[0], widths[1], 2)]
        for before, after in zip(widths[1:-1], widths[2:], strict=True):
            layers += [ResidualBlock(before), ConvBlock(before, after, 2)]
        self.body = nn.Sequential(*layers, ResidualBlock(widths[-1]))
        self.head = nn.Linear(2 * widths[-1], dim)

    def forward(self, tiles: Tensor) -> Tensor:
        """Features float32[B, dim] of tiles uint8[B, H, W, 3] or uint8[B, 3, H, W]."""
        if tiles.shape[-1] == 3:
            tiles = tiles.permute(0, 3, 1, 2)
        x = self.body(tiles.float() / 127.5 - 1.0)
        pooled = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        features: Tensor = self.head(pooled)
        return features
