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

from histgen_lib.bags import Bag, maker_of, read_bag, read_maker
from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen import tile_order
from histgen_lib.training.matching import Found
from histgen_lib.training.report.settings import BagAugment, Variant

_AUGMENT_STREAM, _ORDER_STREAM = 1, 2
FloatArray = NDArray[np.float32]


class Encodes(Protocol):
    """What training needs of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, each 1…V, without begin or end."""
        ...


@dataclass(frozen=True)
class Example:
    """One case for training: its slides' bags (in memory or on disk), its report, and the report's ids (1…V).

    `tiles_hint` grows with the number of tiles (cases of similar hints share a batch): the bag files' size.
    """

    id: str
    report: str
    paths: tuple[Path, ...]
    ids: tuple[int, ...]
    tiles_hint: int = 0
    held: tuple[Bag, ...] = ()

    def load(self) -> tuple[Bag, ...]:
        """Give the bag of each slide, read now when they are not held in memory."""
        return self.held or tuple(read_bag(path) for path in self.paths)


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
    matched: Sequence[Found], tokenizer: Encodes, max_tokens: int, memory_bytes: int
) -> list[Example]:
    """Examples of cases and bag paths; bags stay in memory when all files together are under `memory_bytes`.

    A report longer than `max_tokens` with its end is cut.
    """
    keep = sum(map(_bytes, matched)) <= memory_bytes
    return [
        Example(
            id=found.case.id,
            report=found.case.report,
            paths=found.paths,
            ids=tuple(tokenizer.encode(found.case.report)[: max_tokens - 1]),
            tiles_hint=_bytes(found),
            held=tuple(read_bag(path) for path in found.paths) if keep else (),
        )
        for found in matched
    ]


def _bytes(found: Found) -> int:
    return sum(path.stat().st_size for path in found.paths)


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
    bags: Bag | Sequence[Bag],
    variant: Variant,
    augment: BagAugment | None = None,
    rng: np.random.Generator | None = None,
) -> FloatArray:
    """Features float32[N, D] of a slide, or of a case's slides in turn, as the network takes them.

    Augmented if told, and in `variant`'s order. "published": slide order. "corrected": each slide along the
    curve of `tile_order` where the bag knows its tiles' places. "mean-pooled": one row, the mean.
    """
    slides = [bags] if isinstance(bags, Bag) else bags
    features = np.concatenate([_prepared(bag, variant, augment, rng) for bag in slides])
    if variant == "mean-pooled":
        return np.asarray(features.mean(axis=0, keepdims=True), dtype=np.float32)
    return features


def _prepared(
    bag: Bag, variant: Variant, augment: BagAugment | None, rng: np.random.Generator | None
) -> FloatArray:
    features, xy = np.asarray(bag.features, dtype=np.float32), bag.xy
    if augment is not None and rng is not None:
        features, xy = _augmented(features, xy, augment, rng)
    if variant != "corrected" or not bag.has_places:
        return features
    return features[tile_order(xy, bag.span_px)]


def augment_rng(seed: int, epoch: int, row: int) -> np.random.Generator:
    """Make the random numbers for one slide in one epoch."""
    return np.random.default_rng([seed, epoch, row, _AUGMENT_STREAM])


def require_same_encoder(examples: Sequence[Example], encoder_sha256: str = "") -> None:
    """InvalidInputError("training-bags-differ") unless one encoder made all bags, the one named if any is.

    Compared are the digest and the name of the encoder, where bags say them, and the length of the features.
    Of bags that are left on disk only the facts are read.
    """
    sha256, name, width = encoder_sha256, "", 0
    for example in examples:
        for made in map(maker_of, example.held) if example.held else map(read_maker, example.paths):
            sha256, name, width = sha256 or made.sha256, name or made.name, width or made.width
            same_name = made.name in ("", name) or (made.sha256 == sha256 != "")
            if made.sha256 not in ("", sha256) or made.width != width or not same_name:
                raise _bags_differ(
                    f"The bag of {example.id} was made by another tile encoder than others "
                    f"({made.name or 'not named'}, features of length {made.width})"
                )


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
