"""Bags and reports as batches of tensors: loading, batching, augmentation and padding.

Everything random is a function of (seed, epoch, slide), so that a resumed run sees what an uninterrupted
one sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histgen_lib.bags import Bag, Maker, maker_of, read_bag, read_maker
from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen import tile_order
from histgen_lib.text.tokenizers import Tokenizer
from histgen_lib.training.matching import Found

_AUGMENT_STREAM, _ORDER_STREAM = 1, 2
FloatArray = NDArray[np.float32]


Arrangement = Literal["slide", "curve", "mean"]
"""Tiles as the bag has them, along the curve of `tile_order`, or as a single row, their mean."""


@dataclass(frozen=True)
class BagAugment:
    """Random changes to a training bag; by default none, as published.

    tile_dropout   share of tiles left out, drawn anew each time (0..1)
    feature_noise  standard deviation of Gaussian noise, in standard deviations of the features
    flips          mirror and transpose the coordinates, so that other tiles share a region ("curve" only)
    """

    tile_dropout: float = 0.0
    feature_noise: float = 0.0
    flips: bool = False


@dataclass(frozen=True)
class Example:
    """One case for training: its slides' bags (in memory or on disk), its report, and the report's ids (1…V).

    `tiles_hint` grows with the number of tiles (cases with similar hints share a batch): the bag files' size.
    """

    id: str
    report: str
    paths: tuple[Path, ...]
    ids: tuple[int, ...]
    tiles_hint: int = 0
    held: tuple[Bag, ...] = ()

    def load(self) -> tuple[Bag, ...]:
        """Return each slide's bag, reading those that are not held in memory."""
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
        """Return the batch on `device`."""
        return Batch(*(part.to(device) for part in vars(self).values()))


def make_examples(
    matched: Sequence[Found], tokenizer: Tokenizer, max_tokens: int, memory_bytes: int
) -> list[Example]:
    """Make examples; bags stay in memory if all files together are no larger than `memory_bytes`.

    A report longer than `max_tokens`, end token included, is cut.
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
    """Return the rows of one epoch's batches: slides of similar `sizes` together, batches in random order.

    Sizes are blurred by up to 15 % before sorting, so that batches differ from epoch to epoch.
    """
    rng = np.random.default_rng([seed, epoch, _ORDER_STREAM])
    blurred = np.asarray(sizes, dtype=np.float64) * np.exp(rng.uniform(-0.15, 0.15, len(sizes)))
    order = rng.permutation(len(sizes)) if batch_size == 1 else np.argsort(blurred, kind="stable")
    batches = [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
    return [batches[place] for place in rng.permutation(len(batches))]


def share_of(batches: Sequence[list[int]], rank: int, world: int) -> list[list[int]]:
    """Return one process's batches; the first ones are repeated so that every process has the same number."""
    each = -(-len(batches) // world)
    return [batches[(turn * world + rank) % len(batches)] for turn in range(each)]


def prepare(
    bags: Bag | Sequence[Bag],
    arrangement: Arrangement,
    augment: BagAugment | None = None,
    rng: np.random.Generator | None = None,
) -> FloatArray:
    """Return features float32[N, D] of a slide, or of a case's slides in turn, as a network takes them.

    They are augmented if `augment` and `rng` are given. "curve" orders each slide's tiles if the bag knows
    their places.
    """
    slides = [bags] if isinstance(bags, Bag) else bags
    features = np.concatenate([_prepared(bag, arrangement, augment, rng) for bag in slides])
    if arrangement == "mean":
        return np.asarray(features.mean(axis=0, keepdims=True), dtype=np.float32)
    return features


def _prepared(
    bag: Bag, arrangement: Arrangement, augment: BagAugment | None, rng: np.random.Generator | None
) -> FloatArray:
    features, xy = np.asarray(bag.features, dtype=np.float32), bag.xy
    if augment is not None and rng is not None:
        features, xy = _augmented(features, xy, augment, rng)
    if arrangement != "curve" or not bag.has_places:
        return features
    return features[tile_order(xy, bag.span_px)]


def augment_rng(seed: int, epoch: int, row: int) -> np.random.Generator:
    """Make the random generator for one slide in one epoch."""
    return np.random.default_rng([seed, epoch, row, _AUGMENT_STREAM])


def require_same_encoder(examples: Sequence[Example], encoder: Maker | None = None) -> None:
    """Require that one encoder with the same settings made all bags: `encoder`, if there is one.

    Compares the encoder's digests and name, where bags state them, and the length of the features. Of bags on
    disk only the metadata is read. InvalidInputError("training-bags-differ").
    """
    common = replace(encoder, name="") if encoder else Maker("", "", 0)  # the bags' name for it may differ
    for example in examples:
        for maker in map(maker_of, example.held) if example.held else map(read_maker, example.paths):
            common = Maker(
                common.name or maker.name,
                common.sha256 or maker.sha256,
                common.width or maker.width,
                common.settings or maker.settings,
            )
            if not _agrees(maker, common):
                raise _bags_differ(
                    f"The bag of {example.id} is from a different tile encoder than the others, or from it "
                    f"with other settings ({maker.name or 'not named'}, features of length {maker.width})"
                )


def _agrees(maker: Maker, common: Maker) -> bool:
    """Return whether what a bag states about its encoder is what the others state."""
    same_name = maker.name in ("", common.name) or (maker.sha256 == common.sha256 != "")
    return (
        same_name
        and maker.width == common.width
        and maker.sha256 in ("", common.sha256)
        and maker.settings in ("", common.settings)
    )


def collate(features: Sequence[FloatArray], ids: Sequence[Sequence[int]]) -> Batch:
    """Pad slides' features [N_i, D] and ids to one batch. InvalidInputError("training-bags-differ")."""
    count, width = len(features), features[0].shape[1]
    if any(rows.shape[1] != width for rows in features):
        raise _bags_differ("The bags have features of different lengths")
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
    hint = "Encode all slides with the same encoder; --encoder, if used, must name that one."
    return InvalidInputError("training-bags-differ", f"{what}.", hint=hint)
