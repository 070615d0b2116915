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
from numpy.typing import NDArray
from torch import Tensor

from histgen_lib.models.histgen import HistGen
from histgen_lib.training.data import Example, prepare
from histgen_lib.training.settings import Variant

_SAMPLED_SLIDES = 200
_SAMPLED_TILES = 512
"""Tiles taken of a slide at most: full-size bags of all sampled slides would not fit into memory."""

_GAIN = 4.0
"""Deviation of an embedded feature, against position codes of about 0.7."""


def network_inputs(examples: Sequence[Example], variant: Variant, seed: int) -> Tensor:
    """Rows [M, D] that the network will be fed: tiles of (some of) the training slides, or slides' means."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(examples))[:_SAMPLED_SLIDES]
    bags = [prepare(examples[row].load(), "published") for row in chosen]
    if variant == "mean-pooled":
        return torch.from_numpy(np.stack([tiles.mean(axis=0) for tiles in bags]))
    return torch.from_numpy(np.concatenate([_some(tiles, rng) for tiles in bags]))


def _some(tiles: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    return tiles if len(tiles) <= _SAMPLED_TILES else tiles[rng.permutation(len(tiles))[:_SAMPLED_TILES]]


def scale_start(model: HistGen, sample: Tensor, directions: Tensor | None = None) -> None:
    """Set `feature_map` and `feature_embed` so that embedded `sample` rows [M, D] deviate by about 4.

    `directions` [H, D] (rows of a tile encoder's heads): the first min(H, d_vf, d_model) embedded values
    become these directions, standardised over the sample; the others stay random.
    """
    mean, deviation = sample.mean(dim=0), sample.std(dim=0).clamp_min(1e-3)
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
