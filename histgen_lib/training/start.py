"""First weights for small data: features scaled to what the network's position codes expect.

The published initialisation leaves tile features several times weaker than the position codes added to
them, and a network trained on a few thousand slides needs most of its time to undo that. Here the first two
maps are set from the training features, and, where the tile encoder left its heads, along the findings they
tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from histgen_lib.models.histgen import HistGen
from histgen_lib.training.data import Example

_SAMPLED_SLIDES = 200
_GAIN = 4.0
"""Deviation of an embedded feature, against position codes of about 0.7."""


def feature_statistics(examples: Sequence[Example], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [D], deviation [D] and a sample [M, D] of the tile features of (some of) the training slides."""
    chosen = np.random.default_rng(seed).permutation(len(examples))[:_SAMPLED_SLIDES]
    tiles = np.concatenate([np.asarray(examples[row].load().features, dtype=np.float32) for row in chosen])
    sample = torch.from_numpy(tiles)
    return sample.mean(dim=0), sample.std(dim=0).clamp_min(1e-3), sample


def scale_start(
    model: HistGen, examples: Sequence[Example], seed: int, directions: Tensor | None = None
) -> None:
    """Set `feature_map` and `feature_embed` so that embedded features have a deviation of about 4.

    `directions` [H, D] (rows of a tile encoder's heads): the first min(H, d_vf, d_model) embedded values
    become these directions, standardised over the training tiles; the others stay random.
    """
    mean, deviation, sample = feature_statistics(examples, seed)
    first, second = model.feature_map, model.feature_embed
    with torch.no_grad():
        first.weight.div_(deviation)
        if directions is not None:
            _align(model, directions, sample - mean)
        first.bias.sub_(first.weight @ mean)
        embedded = second(first(sample))
        strength = _GAIN / embedded.std(dim=0).clamp_min(1e-3)
        second.weight.mul_(strength[:, None])
        second.bias.mul_(strength)


def _align(model: HistGen, directions: Tensor, centred: Tensor) -> None:
    count = min(len(directions), model.config.d_vf, model.config.d_model)
    chosen = directions[:count]
    chosen = chosen / (centred @ chosen.T).std(dim=0).clamp_min(1e-3)[:, None]
    model.feature_map.weight[:count] = chosen
    model.feature_map.bias[:count] = 0
    model.feature_embed.weight[:count] = 0
    model.feature_embed.weight[:count, :count] = torch.eye(count)
    model.feature_embed.bias[:count] = 0
