"""Slides and texts of different lengths, put together for the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histgen_lib.models.fgcr.anchors import Regions
from histgen_lib.models.fgcr.network import Slides, Texts

Bag = tuple[npt.NDArray[Any], Regions]
"""A slide's features [N, D], and its regions."""


def slides_of(bags: Sequence[Bag]) -> Slides:
    """Pad slides to the one with the most tiles, and to the one with the most regions."""
    most_tiles = max(len(features) for features, _ in bags)
    most_regions = max(len(regions.rows) for _, regions in bags)
    shape = (len(bags), most_regions)
    slides = Slides(
        torch.zeros(len(bags), most_tiles, bags[0][0].shape[1]),
        torch.zeros(len(bags), most_tiles, dtype=torch.bool),
        torch.zeros(shape, dtype=torch.int64),
        torch.zeros(shape, dtype=torch.int64),
        torch.zeros(shape, dtype=torch.bool),
        torch.zeros(*shape, most_tiles),
    )
    for row, (features, regions) in enumerate(bags):
        tiles, count = len(features), len(regions.rows)
        slides.features[row, :tiles] = torch.from_numpy(np.asarray(features, dtype=np.float32))
        slides.tile_mask[row, :tiles] = True
        slides.anchors[row, :count] = torch.from_numpy(regions.rows)
        slides.scales[row, :count] = torch.from_numpy(regions.scales)
        slides.anchor_mask[row, :count] = True
        slides.soft_mask[row, :count, :tiles] = torch.from_numpy(regions.soft_mask)
    return slides


def texts_of(encoded: Sequence[Sequence[int] | npt.NDArray[Any]], length: int | None = None) -> Texts:
    """Pad texts, each of at least one token, to the longest, or to `length`."""
    longest = length or max(len(ids) for ids in encoded)
    tokens = torch.zeros(len(encoded), longest, dtype=torch.int64)
    for row, ids in enumerate(encoded):
        tokens[row, : len(ids)] = torch.as_tensor(np.asarray(ids, dtype=np.int64))
    counts = torch.tensor([[len(ids)] for ids in encoded])
    return Texts(tokens, torch.arange(longest) < counts)


def hidden_words(texts: Texts, share: float, generator: torch.Generator) -> Tensor:
    """Choose words to be guessed, about a `share` of each text: bool[B, T]."""
    chance = torch.rand(texts.mask.shape, generator=generator)
    return (chance < share).to(texts.mask.device) & texts.mask
