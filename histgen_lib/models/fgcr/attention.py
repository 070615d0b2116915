"""The attention of FGCR: between tiles, regions and the whole slide; and the ordinary one, for words."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.models.fgcr.config import FgcrConfig

_LEAST = 1e-30
"""Less of a soft mask counts as this: its logarithm has to be finite."""


class Streams(NamedTuple):
    """What a slide's layers carry: tiles [B, N, d], anchors [B, R, d] and the whole slide [B, 1, d]."""

    tiles: Tensor
    anchors: Tensor
    whole: Tensor


class Reach(NamedTuple):
    """Who may attend whom: `soft` [B, R, N] in 0…1; `shut` bool[B, R, N], where either is padding."""

    soft: Tensor
    shut: Tensor


def reach(soft_mask: Tensor, tile_mask: Tensor, anchor_mask: Tensor) -> Reach:
    """Make it from soft_mask [B, R, N], tile_mask bool[B, N] and anchor_mask bool[B, R]."""
    return Reach(soft_mask, ~(anchor_mask.unsqueeze(2) & tile_mask.unsqueeze(1)))


class KernelAttention(nn.Module):
    """Tiles and anchors attend each other, the whole slide attends the anchors; one projection for all.

    Published: soft masks weigh the attention after its softmax, so that it sums to less than 1. Corrected:
    they weigh it before, so that it is shared out among what is near.

    Of queries, keys and values only those of the few anchors are computed: what would be done to each of the
    many tiles is done to the anchors instead, since (x·Q)·(a·K) = x·(Q·a·K).
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
        query, key, value = (_split(x, self._heads) for x in self.inward(streams.anchors).chunk(3, dim=-1))
        told = (
            self._to_tiles(streams.tiles, key, value, reach),
            self._to_anchors(query, streams.tiles, reach),
            self._to_whole(streams.whole, key, value, reach.shut[:, :, :1]),
        )
        return Streams(*map(self._dropout, told))

    def _to_tiles(self, tiles: Tensor, key: Tensor, value: Tensor, reach: Reach) -> Tensor:
        asked = key @ self._weight(0) / math.sqrt(key.shape[-1])  # [B, heads, R, d]
        dots = tiles @ asked.flatten(1, 2).transpose(1, 2)
        dots = dots.reshape(*dots.shape[:2], self._heads, key.shape[2])
        soft, shut = (mask.transpose(1, 2).unsqueeze(2) for mask in reach)
        heard = self._weights(dots, soft, shut).flatten(2)
        if isinstance(self.outward, nn.Identity):
            return heard @ value.flatten(1, 2)
        by_head = self.outward.weight.T.reshape(self._heads, value.shape[-1], -1)
        return heard @ (value @ by_head).flatten(1, 2) + self.outward.bias

    def _to_anchors(self, query: Tensor, tiles: Tensor, reach: Reach) -> Tensor:
        asking = query @ self._weight(1) / math.sqrt(query.shape[-1])  # [B, heads, R, d]
        dots = (asking.flatten(1, 2) @ tiles.transpose(1, 2)).reshape(*query.shape[:3], tiles.shape[1])
        weights = self._weights(dots, reach.soft.unsqueeze(1), reach.shut.unsqueeze(1))
        heard = (weights.flatten(1, 2) @ tiles).reshape(*query.shape[:3], tiles.shape[2])
        told: Tensor = self.outward(_merge(heard @ self._weight(2).transpose(1, 2)))
        return told

    def _to_whole(self, whole: Tensor, key: Tensor, value: Tensor, shut: Tensor) -> Tensor:
        query = _split(self.inward(whole).chunk(3, dim=-1)[0], self._heads)
        dots = without(_dots(query, key), shut.transpose(1, 2).unsqueeze(1))
        told: Tensor = self.outward(_merge(dots.softmax(dim=-1) @ value))
        return told

    def _weights(self, dots: Tensor, soft: Tensor, shut: Tensor) -> Tensor:
        if self._soft_first:
            dots = dots + soft.clamp_min(_LEAST).log()
        weights = without(dots, shut).softmax(dim=-1)
        return weights if self._soft_first else weights * soft

    def _weight(self, use: int) -> Tensor:
        """Return the map to queries (0), keys (1) or values (2): [heads, width, d]."""
        weight = self.inward.weight.chunk(3)[use]
        return weight.reshape(self._heads, -1, weight.shape[1])


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
        dots = without(_dots(query, key), ~visible[:, None, None, :])
        heard: Tensor = self.outward(_merge(self._dropout(dots.softmax(dim=-1)) @ value))
        return heard


def without(scores: Tensor, shut: Tensor) -> Tensor:
    """Give what is `shut` the least score that there is, in float16 as well: a softmax leaves it out."""
    return scores.masked_fill(shut, torch.finfo(scores.dtype).min)


def _dots(query: Tensor, key: Tensor) -> Tensor:
    """Scaled dot products [B, heads, Q, K]."""
    return (query @ key.transpose(-2, -1)) * (1 / math.sqrt(query.shape[-1]))


def _split(x: Tensor, heads: int) -> Tensor:
    """[B, T, heads·w] -> [B, heads, T, w]."""
    return x.reshape(x.shape[0], x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    """[B, heads, T, w] -> [B, T, heads·w]."""
    return torch.flatten(x.transpose(1, 2), 2)
