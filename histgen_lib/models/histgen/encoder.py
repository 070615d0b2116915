"""The local-global hierarchical encoder: from tiles to regions to the slide."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.models.histgen.config import REGION_LAYERS, HistGenConfig
from histgen_lib.models.histgen.layers import EncoderBlock, LayerNorm, position_code

_REGIONS_AT_ONCE = 64
"""Regions whose activations are in memory together: at published size 12 MB a tensor."""


class RegionMemory(NamedTuple):
    """What the decoder attends to, and how it came from the tiles.

    `regions` float[B, R, d]; `valid` bool[B, R], False where a slide has fewer regions than the batch;
    `tile_weights` float[B, R, P], the share of each tile in its region: rows of real regions sum to 1.
    """

    regions: Tensor
    valid: Tensor
    tile_weights: Tensor


class RegionPooling(nn.Module):
    """Weighted mean of a region's positions, then a dense layer and tanh."""

    def __init__(self, config: HistGenConfig) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Linear(config.d_model, config.d_model)
        self.score = nn.Linear(config.d_model, 1, bias=False)
        self.dense = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [B, R, P+1, d] -> pooled [B, R, d] and the weights [B, R, P+1] of the positions."""
        scores = self._scores(x)
        if self.config.mode == "corrected":
            scores = scores.masked_fill(~valid, float("-inf"))
        weights = scores.softmax(dim=-1)
        pooled = (weights.unsqueeze(-2) @ x).squeeze(-2)
        return torch.tanh(self.dense(pooled)), weights

    def _scores(self, x: Tensor) -> Tensor:
        projected = self.project(x)
        if self.config.pooling == "bounded":
            scores: Tensor = torch.tanh(self.score(projected))
        else:
            scores = self.score(torch.tanh(projected))
        return scores.squeeze(-1)


class HierarchicalEncoder(nn.Module):
    """Attention inside regions, across regions, inside regions again; then one vector a region.

    Each region carries a learned token at its last position. In `published` mode the slide-level step
    reads and overwrites the first position (a tile) instead of it, as the authors' code does.
    """

    def __init__(self, config: HistGenConfig) -> None:
        super().__init__()
        self.config = config
        sizes = (config.d_model, config.d_ff, config.num_heads, config.dropout)
        self.region_token = nn.Parameter(torch.randn(config.d_model))
        self.region_blocks = nn.ModuleList(EncoderBlock(*sizes) for _ in range(REGION_LAYERS))
        self.slide_block = EncoderBlock(*sizes)
        self.norm = LayerNorm(config.d_model)
        self.pooling = RegionPooling(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tiles: Tensor, mask: Tensor) -> RegionMemory:
        """Tiles [B, R, P, d] with zeros at padding and mask bool[B, R, P] -> the decoder's memory."""
        batch, regions = mask.shape[:2]
        token = self.region_token.expand(batch, regions, 1, -1)
        x = torch.cat([tiles, token], dim=2)
        valid = functional.pad(mask, (0, 1), value=True)
        region_valid = mask.any(dim=-1)
        x = self._within_regions(self.region_blocks[0], x, valid)
        x = self._across_regions(x, region_valid)
        pooled, weights = self._pooled(x, valid)
        return RegionMemory(pooled, region_valid, tile_shares(weights, mask))

    def in_parts(self, x: Tensor, mask: Tensor) -> RegionMemory:
        """Compute what `forward` does, a few regions at a time, in evaluation and without gradients.

        x [B, R, P+1, d]: tiles with zeros at padding, and room for the region token; overwritten.
        """
        x[:, :, -1] = self.region_token
        valid = functional.pad(mask, (0, 1), value=True)
        region_valid = mask.any(dim=-1)
        stride = max(1, _REGIONS_AT_ONCE // len(x))
        parts = [slice(first, first + stride) for first in range(0, x.shape[1], stride)]
        for part in parts:
            x[:, part] = self._within_regions(self.region_blocks[0], x[:, part], valid[:, part])
        place = 0 if self.config.mode == "published" else -1
        x[:, :, place] = self._heard(x[:, :, place], region_valid)
        found = [self._pooled(x[:, part], valid[:, part]) for part in parts]
        pooled, weights = (torch.cat(kind, dim=1) for kind in zip(*found, strict=True))
        return RegionMemory(pooled, region_valid, tile_shares(weights, mask))

    def _pooled(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        for block in list(self.region_blocks)[1:]:
            x = self._within_regions(block, x, valid)
        pooled, weights = self.pooling(self.norm(x), valid)
        return pooled, weights

    def _within_regions(self, block: nn.Module, x: Tensor, valid: Tensor) -> Tensor:
        places = torch.arange(self.config.region_size, device=x.device)
        placed = self.dropout(x + position_code(places, self.config.d_model))
        inside: Tensor = block(placed.flatten(0, 1), valid.flatten(0, 1))
        return inside.reshape(x.shape)

    def _across_regions(self, x: Tensor, region_valid: Tensor) -> Tensor:
        first = self.config.mode == "published"
        spoken = x[:, :, 0] if first else x[:, :, -1]
        heard = self._heard(spoken, region_valid).unsqueeze(2)
        return torch.cat([heard, x[:, :, 1:]] if first else [x[:, :, :-1], heard], dim=2)

    def _heard(self, spoken: Tensor, region_valid: Tensor) -> Tensor:
        """Let the regions' spokesmen [B, R, d] attend to each other."""
        places = torch.arange(spoken.shape[1], device=spoken.device)
        placed = self.dropout(spoken + position_code(places, self.config.d_model))
        heard: Tensor = self.slide_block(placed, region_valid)
        return heard


def tile_shares(weights: Tensor, mask: Tensor) -> Tensor:
    """Pooling weights of the real tiles alone, rescaled to sum to 1 in each region that has any."""
    shares = weights[..., :-1] * mask
    return shares / shares.sum(dim=-1, keepdim=True).clamp_min(1e-12)
