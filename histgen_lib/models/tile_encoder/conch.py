"""CONCH's vision towers: a vision transformer, and one learnt query that attends to all of its tokens.

CONCH (Lu et al. 2024) pools a ViT-B/16 at 448 px to 512 numbers, CONCH v1.5 (Ding et al. 2024) a ViT-L/16 to
768. The feature is what the query gathers, after a norm; neither projected for contrast nor normalised, as
its authors recommend for other tasks than matching text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.models.tile_encoder import timm_models
from histgen_lib.models.tile_encoder.row import Value


class AttentionPool(nn.Module):
    """Tokens [B, T, width] -> [B, dim]: attention of one learnt query, in `heads` heads."""

    def __init__(self, width: int, dim: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, dim), std=0.02))
        self.norm_q, self.norm_k = nn.LayerNorm(dim), nn.LayerNorm(width)
        self.q = nn.Linear(dim, dim, bias=bias)
        self.k, self.v = nn.Linear(width, dim, bias=bias), nn.Linear(width, dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return what the query gathers."""
        tokens = self.norm_k(tokens)
        query = self.q(self.norm_q(self.query))[None].expand(tokens.shape[0], -1, -1)
        q, k, v = (self._apart(x) for x in (query, self.k(tokens), self.v(tokens)))
        gathered = functional.scaled_dot_product_attention(q, k, v)
        pooled: Tensor = self.out(gathered.flatten(1))
        return pooled

    def _apart(self, x: Tensor) -> Tensor:
        """[B, T, dim] -> [B, heads, T, dim / heads]."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class VisionTower(nn.Module):
    """Pixels [B, 3, side, side] -> features [B, pool_dim]."""

    def __init__(self, trunk: Any, *, pool_dim: int, pool_heads: int, pool_bias: bool) -> None:
        super().__init__()
        self.trunk, self.num_features = trunk, pool_dim
        self.pool = AttentionPool(trunk.num_features, pool_dim, pool_heads, bias=pool_bias)
        self.norm = nn.LayerNorm(pool_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features."""
        features: Tensor = self.norm(self.pool(self.trunk(pixels)))
        return features


def build(arguments: Mapping[str, Value], text: str) -> VisionTower:
    """Build a tower with fresh weights; arguments are the row's. Raises as `timm_models.create`."""
    pool = {name: arguments[name] for name in ("pool_dim", "pool_heads", "pool_bias")}
    trunk = {name: value for name, value in arguments.items() if name not in pool}
    tokens: dict[str, Value] = {"num_classes": 0, "global_pool": ""}
    return VisionTower(timm_models.create("vit_base_patch16_224", tokens | trunk, text), **pool)  # type: ignore[arg-type]
