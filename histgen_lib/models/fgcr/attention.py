"""The attention of FGCR: between tiles, regions and the whole slide; and the ordinary one, for words."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.models.fgcr.config import FgcrConfig

_SHUT = -1e9
_LEAST = 1e-30
"""Less of a soft mask counts as this: its logarithm has to be finite."""


class Streams(NamedTuple):
    """What a slide's layers carry: tiles [B, N, d], anchors [B, R, d] and the whole slide [B, 1, d]."""

    tiles: Tensor
    anchors: Tensor
    whole: Tensor


class Reach(NamedTuple):
    """Who may attend whom: `soft` [B, 1, N, R] in 0…1; `shut` bool of that shape, where either is padding."""

    soft: Tensor
    shut: Tensor


def reach(soft_mask: Tensor, tile_mask: Tensor, anchor_mask: Tensor) -> Reach:
    """Make it from soft_mask [B, R, N], tile_mask bool[B, N] and anchor_mask bool[B, R]."""
    open_pairs = tile_mask.unsqueeze(2) & anchor_mask.unsqueeze(1)
    return Reach(soft_mask.transpose(1, 2).unsqueeze(1), ~open_pairs.unsqueeze(1))


class KernelAttention(nn.Module):
    """Tiles and anchors attend each other, the whole slide attends the anchors; one projection for all.

    Published: soft masks weigh the attention after its softmax, so that it sums to less than 1. Corrected:
    they weigh it before, so that it is shared out among what is near.
    """

    def __init__(self, config: FgcrConfig) -> None:
        super().__init__()
        self._heads, self._soft_first = config.heads, config.corrected
        inner = config.heads * config.dim_head
        self.inward = nn.Linear(config.dim, 3 * inner, bias=False)
        has_output = config.dim_head != config.dim
        self.outward = nn.Linear(inner, config.dim) if has_output else nn.Identity()
        self._dropout = nn.Dropout(config.dropout if has_output else 0.0)

    def forward(self, streams: Streams, reach: Reach) -> Streams:
        """Return what each of the streams hears."""
        tile_q, tile_k, tile_v = self._projected(streams.tiles)
        anchor_q, anchor_k, anchor_v = self._projected(streams.anchors)
        whole_q, _, _ = self._projected(streams.whole)
        back = Reach(reach.soft.transpose(2, 3), reach.shut.transpose(2, 3))
        to_tiles = self._weights(_dots(tile_q, anchor_k), reach) @ anchor_v
        to_anchors = self._weights(_dots(anchor_q, tile_k), back) @ tile_v
        seen = _dots(whole_q, anchor_k).masked_fill(reach.shut[:, :, :1], _SHUT)
        return Streams(*map(self._merged, (to_tiles, to_anchors, seen.softmax(dim=-1) @ anchor_v)))

    def _weights(self, dots: Tensor, reach: Reach) -> Tensor:
        if self._soft_first:
            dots = dots + reach.soft.clamp_min(_LEAST).log()
        weights = dots.masked_fill(reach.shut, _SHUT).softmax(dim=-1)
        return weights if self._soft_first else weights * reach.soft

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.inward(x).chunk(3, dim=-1)
        return _split(query, self._heads), _split(key, self._heads), _split(value, self._heads)

    def _merged(self, x: Tensor) -> Tensor:
        merged: Tensor = self._dropout(self.outward(_merge(x)))
        return merged


class KernelBlock(nn.Module):
    """One layer of the slide encoder. Its normalised input, not its input, is what it adds to."""

    def __init__(self, config: FgcrConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.attention = KernelAttention(config)
        self.feed_norm = nn.LayerNorm(config.dim)
        self.expand = nn.Linear(config.dim, config.mlp_dim)
        self.contract = nn.Linear(config.mlp_dim, config.dim)
        self._dropout = nn.Dropout(config.dropout)

    def forward(self, streams: Streams, reach: Reach) -> Streams:
        """One layer further."""
        normed = Streams(*map(self.norm, streams))
        heard = self.attention(normed, reach)
        return Streams(*(self._fed(own + more) for own, more in zip(normed, heard, strict=True)))

    def _fed(self, x: Tensor) -> Tensor:
        inner = self._dropout(functional.gelu(self.expand(self.feed_norm(x))))
        fed: Tensor = self._dropout(self.contract(inner)) + x
        return fed


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (Attention Is All You Need, section 3.2)."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self._heads = heads
        self.inward = nn.Linear(dim, 3 * dim)
        self.outward = nn.Linear(dim, dim)
        self._dropout = nn.Dropout(dropout)

    def forward(self, asking: Tensor, asked: Tensor, visible: Tensor) -> Tensor:
        """`asking` [B, Q, d] attends those of `asked` [B, K, d] that are `visible` bool[B, K]; [B, Q, d]."""
        by_use = self.inward.weight.chunk(3), self.inward.bias.chunk(3)
        query, key, value = (
            _split(functional.linear(x, weight, bias), self._heads)
            for x, weight, bias in zip((asking, asked, asked), *by_use, strict=True)
        )
        dots = _dots(query, key).masked_fill(~visible[:, None, None, :], _SHUT)
        heard: Tensor = self.outward(_merge(self._dropout(dots.softmax(dim=-1)) @ value))
        return heard


def _dots(query: Tensor, key: Tensor) -> Tensor:
    """Scaled dot products [B, heads, Q, K]."""
    return (query @ key.transpose(-2, -1)) * (1 / math.sqrt(query.shape[-1]))


def _split(x: Tensor, heads: int) -> Tensor:
    """[B, T, heads·w] -> [B, heads, T, w]."""
    return x.reshape(x.shape[0], x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    """[B, heads, T, w] -> [B, T, heads·w]."""
    return torch.flatten(x.transpose(1, 2), 2)
