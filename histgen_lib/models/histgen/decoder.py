"""The text decoder: from region memory to words, over whole texts or token by token with a cache."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.layers import Attention, FeedForward, LayerNorm


class StepOutput(NamedTuple):
    """Result of one decoding step of S slides with B beams each.

    `words` float[S, B, d] (from the decoder) or log-probabilities [S, B, V+1] (from the network);
    `attention` float[S, B, R], the last layer's attention to the regions, mean over heads;
    `cache` float[L, 2, S, B, heads, T+1, d/heads], keys and values of all tokens so far.
    """

    words: Tensor
    attention: Tensor
    cache: Tensor


class DecoderBlock(nn.Module):
    """Pre-norm self-attention, attention to the regions, and feed-forward, each added to its input."""

    def __init__(self, config: HistGenConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config.d_model, config.num_heads, config.dropout)
        self.region_attention = Attention(config.d_model, config.num_heads, config.dropout)
        self.feed_forward = FeedForward(config.d_model, config.d_ff, config.dropout)
        self.norms = nn.ModuleList(LayerNorm(config.d_model) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, keep: Tensor, regions: Tensor, region_keep: Tensor) -> Tensor:
        """Whole texts x [B, T, d]; keep bool[B, 1, T, T], regions [B, R, d], region_keep bool[B, 1, 1, R]."""
        seen = self.norms[0](x)
        x = x + self.dropout(self.self_attention(seen, seen, keep))
        x = x + self.dropout(self.region_attention(self.norms[1](x), regions, region_keep))
        return self._think(x)

    def step(
        self, x: Tensor, past: Tensor, cross: Tensor, region_keep: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One token: x [S, B, d], past [2, S, B, h, T, k], cross [2, S, h, R, k] -> x, new past, weights."""
        x, past = self._look_back(x, past)
        x, weights = self._look_at_regions(x, cross, region_keep)
        return self._think(x), past, weights

    def _look_back(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        attention = self.self_attention
        seen = self.norms[0](x).unsqueeze(-2)
        present = torch.stack(attention.keys_values(seen))
        past = torch.cat([past, present], dim=-2)
        weights = attention.weigh(attention.split(attention.query(seen)), past[0])
        return x + attention.merge(weights @ past[1]).squeeze(-2), past

    def _look_at_regions(self, x: Tensor, cross: Tensor, region_keep: Tensor) -> tuple[Tensor, Tensor]:
        # A slide's beams are its queries: they share the slide's keys and values without copies.
        attention = self.region_attention
        queries = attention.split(attention.query(self.norms[1](x)))
        weights = attention.weigh(queries, cross[0], region_keep)
        return x + attention.merge(weights @ cross[1]), weights.mean(dim=1)

    def _think(self, x: Tensor) -> Tensor:
        thought: Tensor = x + self.dropout(self.feed_forward(self.norms[2](x)))
        return thought


class TextDecoder(nn.Module):
    """A stack of decoder blocks and a final norm."""

    def __init__(self, config: HistGenConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.num_layers))
        self.norm = LayerNorm(config.d_model)

    def forward(self, x: Tensor, keep: Tensor, regions: Tensor, region_valid: Tensor) -> Tensor:
        """Whole texts x [B, T, d]; keep bool[B, T, T], regions [B, R, d], region_valid bool[B, R]."""
        for block in self.blocks:
            x = block(x, keep[:, None], regions, region_valid[:, None, None, :])
        normed: Tensor = self.norm(x)
        return normed

    def cross(self, regions: Tensor) -> Tensor:
        """Keys and values of the regions for every layer: [L, 2, S, heads, R, d/heads]; once a slide."""
        pairs = [torch.stack(block.region_attention.keys_values(regions)) for block in self._typed()]
        return torch.stack(pairs)

    def step(self, x: Tensor, cache: Tensor, cross: Tensor, region_valid: Tensor) -> StepOutput:
        """One token a beam: x [S, B, d] with the cache of the tokens before it."""
        keep = region_valid[:, None, None, :]
        kept = []
        weights = x
        for layer, block in enumerate(self._typed()):
            x, past, weights = block.step(x, cache[layer], cross[layer], keep)
            kept.append(past)
        return StepOutput(self.norm(x), weights, torch.stack(kept))

    def _typed(self) -> list[DecoderBlock]:
        return [block for block in self.blocks if isinstance(block, DecoderBlock)]
