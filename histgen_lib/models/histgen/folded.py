"""HistGen's linear maps folded for evaluation, where nothing random stands between them.

Every graph that only computes (a CPU's, a GPU's) starts from these. Products are formed in float64, and
parameters are new: a folded network may be cast or moved without touching the one it came from.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.models.histgen.layers import Attention, FeedForward, LayerNorm


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Make a linear map of weight [outputs, inputs] and bias [outputs]; no random number is drawn."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made.weight = fixed(weight)
    if bias is not None:
        made.bias = fixed(bias)
    return made


def fixed(values: Tensor) -> nn.Parameter:
    """Make a parameter that takes no gradient."""
    return nn.Parameter(values.detach().contiguous(), requires_grad=False)


def copied(one: nn.Linear) -> nn.Linear:
    """Return the same map with parameters of its own."""
    return linear(one.weight, one.bias)


def chained(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """Fold second(first(x)) into one map; `first` has a bias."""
    weight = second.weight.double() @ first.weight.double()
    bias = second.weight.double() @ first.bias.double()
    if second.bias is not None:
        bias = bias + second.bias.double()
    return linear(weight.to(first.weight.dtype), bias.to(first.weight.dtype))


def side_by_side(*maps: nn.Linear) -> nn.Linear:
    """Join maps of one input into one whose outputs follow each other."""
    return linear(torch.cat([one.weight for one in maps]), torch.cat([one.bias for one in maps]))


def scaled_query(attention: Attention) -> nn.Linear:
    """Return the map to queries whose products with keys are scores: 1/√k is in it."""
    query = attention.query
    factor = 1.0 / math.sqrt(query.out_features // attention.heads)
    return linear(query.weight * factor, query.bias * factor)


def queries_keys_values(attention: Attention) -> nn.Linear:
    """Join the maps to (scaled) queries, keys and values: d -> 3d."""
    return side_by_side(scaled_query(attention), attention.key, attention.value)


def plain_norm(norm: nn.Module) -> nn.LayerNorm:
    """Return the usual layer norm that computes what ours does, which every engine has as one operator.

    Ours divides by the unbiased deviation s plus 1e-6, the usual one by √(biased variance + ε). With the
    factor √((d−1)/d) in the weight they differ by 1e-6/s, which float32 does not show: inputs carry
    position codes, or a residual that does, so that s is of the order of 1.
    """
    assert isinstance(norm, LayerNorm)  # a ModuleList forgets what it holds
    size = len(norm.weight)
    made = nn.LayerNorm(size, eps=1e-12, device="meta")
    made.weight = fixed(norm.weight * math.sqrt((size - 1) / size))
    made.bias = fixed(norm.bias)
    return made


class Thinking(nn.Module):
    """A norm and a feed-forward network, added to their input [..., d]."""

    def __init__(self, norm: nn.Module, feed_forward: FeedForward) -> None:
        super().__init__()
        self.norm = plain_norm(norm)
        self.expand, self.contract = copied(feed_forward.expand), copied(feed_forward.contract)

    def forward(self, x: Tensor) -> Tensor:
        """Add to each row what the network makes of it."""
        thought: Tensor = x + self.contract(functional.relu(self.expand(self.norm(x))))
        return thought
