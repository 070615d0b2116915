"""DINOv2 written down plainly (Oquab et al. 2023; registers: Darcet et al. 2023), from published tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

Tensors = Mapping[str, Tensor]
EPSILON = 1e-6

_TRANSFORMERS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
}


class _Weights:
    """Tensors by Meta's names, whichever naming they have."""

    def __init__(self, tensors: Tensors) -> None:
        self.huggingface = "layernorm.weight" in tensors
        cut = len("backbone.") if "backbone.norm.weight" in tensors else 0
        self.tensors = {name[cut:]: value for name, value in tensors.items()}

    def get(self, name: str, block: int | None = None) -> Tensor:
        return self.tensors[self._name(name, block)]

    def _name(self, name: str, block: int | None) -> str:
        stem, dot, last = name.rpartition(".")
        if self.huggingface:
            name = _TRANSFORMERS.get(name) or f"{_TRANSFORMERS.get(stem, stem)}{dot}{last}"
            return name if block is None else f"encoder.layer.{block}.{name}"
        return name if block is None else f"blocks.{block}.{block}.{name}"

    def has(self, name: str, block: int | None = None) -> bool:
        return self._name(name, block) in self.tensors

    def linear(self, x: Tensor, name: str, block: int) -> Tensor:
        return functional.linear(x, self.get(f"{name}.weight", block), self.get(f"{name}.bias", block))

    def norm(self, x: Tensor, name: str, block: int | None = None) -> Tensor:
        weight, bias = self.get(f"{name}.weight", block), self.get(f"{name}.bias", block)
        return functional.layer_norm(x, weight.shape, weight, bias, EPSILON)


def class_token(tensors: Tensors, pixels: Tensor, heads: int) -> Tensor:
    """Return the class token [B, D] after the final norm, of pixels [B, 3, side, side]."""
    weights = _Weights(tensors)
    x = _tokens(weights, pixels)
    block = 0
    while weights.has("norm1.weight", block):
        attended = _attention(weights, weights.norm(x, "norm1", block), heads, block)
        x = x + weights.get("ls1.gamma", block) * attended
        x = x + weights.get("ls2.gamma", block) * _mlp(weights, weights.norm(x, "norm2", block), block)
        block += 1
    return weights.norm(x, "norm")[:, 0]


def _tokens(weights: _Weights, pixels: Tensor) -> Tensor:
    kernel = weights.get("patch_embed.proj.weight")
    patches = functional.conv2d(pixels, kernel, weights.get("patch_embed.proj.bias"), stride=kernel.shape[-1])
    first = weights.get("cls_token").expand(len(pixels), -1, -1)
    x = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + weights.get("pos_embed")
    if not weights.has("register_tokens"):
        return x
    registers = weights.get("register_tokens").expand(len(pixels), -1, -1)
    return torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)


def _attention(weights: _Weights, x: Tensor, heads: int, block: int) -> Tensor:
    if weights.huggingface:
        parts = [weights.linear(x, f"attention.attention.{p}", block) for p in ("query", "key", "value")]
    else:
        parts = list(weights.linear(x, "attn.qkv", block).chunk(3, dim=-1))
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
    share = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
    return weights.linear((share @ v).transpose(1, 2).flatten(2), "attn.proj", block)


def _mlp(weights: _Weights, x: Tensor, block: int) -> Tensor:
    if weights.has("mlp.fc1.weight", block):
        return weights.linear(functional.gelu(weights.linear(x, "mlp.fc1", block)), "mlp.fc2", block)
    gate, value = weights.linear(x, "mlp.w12", block).chunk(2, dim=-1)
    return weights.linear(functional.silu(gate) * value, "mlp.w3", block)
