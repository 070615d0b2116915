"""The layers of HistGen: norm, attention, memory look-up, feed-forward, pre-norm block."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

Slots = tuple[Tensor, Tensor]
"""Keys and values of the shared memory (`Attention.keys_values`)."""


class LayerNorm(nn.Module):
    """Normalise the last axis by mean and *unbiased* standard deviation, with 1e-6 added to the latter."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., d]; same shape out."""
        variance, mean = torch.var_mean(x, dim=-1, keepdim=True)
        return (x - mean) * (self.weight / (variance.sqrt() + 1e-6)) + self.bias


def position_code(positions: Tensor, d_model: int) -> Tensor:
    """Sinusoidal code [..., d_model] of positions [...] (Attention Is All You Need, section 3.5)."""
    pairs = torch.arange(0, d_model, 2, device=positions.device, dtype=torch.float32)
    angles = positions.unsqueeze(-1).float() * torch.exp(pairs * -(math.log(10000.0) / d_model))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (same paper, section 3.2)."""

    def __init__(self, d_model: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.output = nn.Linear(d_model, d_model)

    def split(self, x: Tensor) -> Tensor:
        """[..., T, d] -> [..., heads, T, d/heads]."""
        return x.reshape(*x.shape[:-1], self.heads, x.shape[-1] // self.heads).transpose(-3, -2)

    def merge(self, x: Tensor) -> Tensor:
        """[..., heads, T, d/heads] -> [..., T, d], through the output map."""
        merged: Tensor = self.output(x.transpose(-3, -2).flatten(-2))
        return merged

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [..., heads, S, d/heads] of memory [..., S, d]."""
        return self.split(self.key(memory)), self.split(self.value(memory))

    def forward(self, x: Tensor, memory: Tensor, keep: Tensor | None = None) -> Tensor:
        """Let x [B, T, d] attend to memory [B, S, d] where `keep` (bool, broadcast to [B, heads, T, S])."""
        keys, values = self.keys_values(memory)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            self.split(self.query(x)), keys, values, attn_mask=keep, dropout_p=dropout
        )
        return self.merge(mixed)

    def weigh(self, queries: Tensor, keys: Tensor, keep: Tensor | None = None) -> Tensor:
        """Attention weights [..., heads, T, S] of split queries over split keys."""
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        if keep is not None:
            scores = scores.masked_fill(~keep, float("-inf"))
        return scores.softmax(dim=-1)


class MemoryAttention(Attention):
    """Attention over memory slots in which each head and query keeps its `topk` best slots only."""

    def __init__(self, d_model: int, heads: int, dropout: float, topk: int) -> None:
        super().__init__(d_model, heads, dropout)
        self.topk = topk

    def recall(self, x: Tensor, slots: Slots) -> Tensor:
        """Return the slots' response [..., T, d] to x [..., T, d]; `slots`: `keys_values` of the memory."""
        keys, values = slots
        queries = self.split(self.query(x))
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        weights = functional.dropout(self._best(scores), self.dropout, self.training)
        return self.merge(weights @ values)

    def _best(self, scores: Tensor) -> Tensor:
        """Softmax over the `topk` best slots, zero elsewhere."""
        if self.topk >= scores.shape[-1]:
            return scores.softmax(dim=-1)
        best, slots = scores.topk(self.topk, dim=-1, sorted=False)
        shares = best.softmax(dim=-1).to(scores.dtype)  # autocast gives float32 here
        return torch.zeros_like(scores).scatter(-1, slots, shares)


class FeedForward(nn.Module):
    """Two linear maps with a ReLU between them."""

    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(d_model, d_ff)
        self.contract = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., d]; same shape out."""
        mapped: Tensor = self.contract(self.dropout(functional.relu(self.expand(x))))
        return mapped


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and feed-forward, each added to its input."""

    def __init__(self, d_model: int, d_ff: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(d_model, heads, dropout)
        self.feed_forward = FeedForward(d_model, d_ff, dropout)
        self.norms = nn.ModuleList(LayerNorm(d_model) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Update x [B, T, d]; `valid` bool[B, T] marks the positions that may be attended to."""
        seen = self.norms[0](x)
        x = x + self.dropout(self.attention(seen, seen, valid[:, None, None, :]))
        thought: Tensor = x + self.dropout(self.feed_forward(self.norms[1](x)))
        return thought
