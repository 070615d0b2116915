"""Bags and reports as batches of tensors: which slides go together, in which order, changed how.

Everything random is a function of (seed, epoch, slide), so that a resumed run sees what an uninterrupted
one sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histgen_lib.bags import Bag, read_bag
from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen import tile_order
from histgen_lib.training.annotation import Case
from histgen_lib.training.settings import BagAugment, Variant

_AUGMENT_STREAM, _ORDER_STREAM = 1, 2
_LOOKED_AT = 16
FloatArray = NDArray[np.float32]


class Encodes(Protocol):
    """What training needs of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, each 1…V, without begin or end."""
        ...


@dataclass(frozen=True)
class Example:
    """One slide for training: a bag (in memory or on disk), its report, and the report's ids (1…V).

    `tiles_hint` grows with the number of tiles (slides of similar hints share a batch): the bag file's size.
    """

    id: str
    report: str
    path: Path
    ids: tuple[int, ...]
    tiles_hint: int = 0
    bag: Bag | None = None

    def load(self) -> Bag:
        """Give the bag, read now when it is not held in memory."""
        return self.bag if self.bag is not None else read_bag(self.path)


@dataclass(frozen=True)
class Batch:
    """Padded slides.

    features float32[B, N, D]; tile_mask bool[B, N], a prefix of each row; inputs int64[B, T] = 0 and the ids;
    targets int64[B, T] = the ids and 0; target_mask bool[B, T], True on ids and the closing 0.
    """

    features: Tensor
    tile_mask: Tensor
    inputs: Tensor
    targets: Tensor
    target_mask: Tensor

    def to(self, device: torch.device) -> Batch:
        """Move all of it to `device`."""
        return Batch(*(part.to(device) for part in vars(self).values()))


def make_examples(
    pairs: Sequence[tuple[Case, Path]], tokenizer: Encodes, max_tokens: int, memory_bytes: int
) -> list[Example]:
    """Examples of cases and bag paths; bags stay in memory when all files together are under `memory_bytes`.

    A report longer than `max_tokens` with its end is cut.
    """
    keep = sum(path.stat().st_size for _, path in pairs) <= memory_bytes
    return [
        Example(
            id=case.id,
            report=case.report,
            path=path,
            ids=tuple(tokenizer.encode(case.report)[: max_tokens - 1]),
            tiles_hint=path.stat().st_size,
            bag=read_bag(path) if keep else None,
        )
        for case, path in pairs
    ]


def plan_batches(sizes: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Rows of each batch of one epoch: slides of similar `sizes` together, batches in random order.

    Sizes are blurred by up to 15 % before sorting, so that batches differ from epoch to epoch.
    """
    rng = np.random.default_rng([seed, epoch, _ORDER_STREAM])
    blurred = np.asarray(sizes, dtype=np.float64) * np.exp(rng.uniform(-0.15, 0.15, len(sizes)))
    order = rng.permutation(len(sizes)) if batch_size == 1 else np.argsort(blurred, kind="stable")
    batches = [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
    return [batches[place] for place in rng.permutation(len(batches))]


def share_of(batches: Sequence[list[int]], rank: int, world: int) -> list[list[int]]:
    """One process's batches; the first ones are repeated so that every process has equally many."""
    each = -(-len(batches) // world)
    return [batches[(turn * world + rank) % len(batches)] for turn in range(each)]


def prepare(
    bag: Bag, variant: Variant, augment: BagAugment | None = None, rng: np.random.Generator | None = None
) -> FloatArray:
    """One slide's features float32[N, D] as the network takes them: augmented if told, in `variant`'s order.

    "published": slide order. "corrected": along the curve of `tile_order` where the bag knows its tiles'
    places. "mean-pooled": one row, the mean.
    """
    features, xy = np.asarray(bag.features, dtype=np.float32), bag.xy
    if augment is not None and rng is not None:
        features, xy = _augmented(features, xy, augment, rng)
    if variant == "mean-pooled":
        return np.asarray(features.mean(axis=0, keepdims=True), dtype=np.float32)
    if variant == "published" or not bag.has_places:
        return features
    return features[tile_order(xy, bag.span_px)]


def augment_rng(seed: int, epoch: int, row: int) -> np.random.Generator:
    """Make the random numbers for one slide in one epoch."""
    return np.random.default_rng([seed, epoch, row, _AUGMENT_STREAM])


def require_same_encoder(examples: Sequence[Example], encoder_sha256: str = "") -> None:
    """InvalidInputError("training-bags-differ") unless one encoder made all bags, the one named if any is.

    Bags that do not say what made them are compared by the length of their features alone. Of bags that are
    left on disk the first few are looked at here; `collate` compares the lengths of the others.
    """
    held = [example for example in examples if example.bag is not None]
    known, width = encoder_sha256, 0
    for example in held or examples[:_LOOKED_AT]:
        bag = example.load()
        known, width = known or bag.encoder_sha256, width or bag.features.shape[1]
        if bag.encoder_sha256 not in ("", known) or bag.features.shape[1] != width:
            raise _bags_differ(f"The bag of {example.id} was made by another tile encoder than others")


def collate(features: Sequence[FloatArray], ids: Sequence[Sequence[int]]) -> Batch:
    """Pad slides' features [N_i, D] and ids into one batch. InvalidInputError("training-bags-differ")."""
    count, width = len(features), features[0].shape[1]
    if any(rows.shape[1] != width for rows in features):
        raise _bags_differ("Bags hold features of different lengths")
    tiles, tokens = max(map(len, features)), max(map(len, ids)) + 1
    padded = np.zeros((count, tiles, width), dtype=np.float32)
    targets = np.zeros((count, tokens), dtype=np.int64)
    tile_mask = np.arange(tiles) < np.array([[len(f)] for f in features])
    target_mask = np.arange(tokens) <= np.array([[len(t)] for t in ids])
    for row, (rows, words) in enumerate(zip(features, ids, strict=True)):
        padded[row, : len(rows)] = rows
        targets[row, : len(words)] = words
    inputs = np.concatenate([np.zeros((count, 1), dtype=np.int64), targets[:, :-1]], axis=1)
    return Batch(*(torch.from_numpy(part) for part in (padded, tile_mask, inputs, targets, target_mask)))


def _augmented(
    features: FloatArray, xy: NDArray[np.int32], augment: BagAugment, rng: np.random.Generator
) -> tuple[FloatArray, NDArray[np.int32]]:
    kept = rng.random(len(features)) >= augment.tile_dropout
    if kept.any():
        features, xy = features[kept], xy[kept]
    if augment.feature_noise > 0:
        scale = np.float32(augment.feature_noise) * features.std(axis=0, keepdims=True)
        features = features + scale * rng.standard_normal(features.shape, dtype=np.float32)
    if augment.flips:
        xy = xy * rng.choice([-1, 1], size=2).astype(np.int32)
        xy = xy[:, ::-1] if rng.random() < 0.5 else xy
    return features, xy


def _bags_differ(what: str) -> InvalidInputError:
    hint = "Encode all slides with one encoder, and give --encoder that one or none."
    return InvalidInputError("training-bags-differ", f"{what}.", hint=hint)
