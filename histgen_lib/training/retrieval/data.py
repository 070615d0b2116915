"""Slides with their reports as batches for FGCR: sub-boxes, noise, sentences and prompts.

Everything random is a function of (seed, epoch, slide), so that a resumed run sees what an uninterrupted one
sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from histgen_lib.bags import Bag, read_bag
from histgen_lib.models.fgcr.anchors import Regions, find_regions
from histgen_lib.models.fgcr.batches import hidden_words, slides_of, texts_of
from histgen_lib.models.fgcr.config import FgcrConfig
from histgen_lib.models.fgcr.losses import Batch
from histgen_lib.models.fgcr.network import Slides, Texts
from histgen_lib.models.fgcr.prompts import prompt_sets
from histgen_lib.models.fgcr.words import Words
from histgen_lib.text.synoptic import parse_report, split_sentences
from histgen_lib.training.matching import Found
from histgen_lib.training.retrieval.settings import SlideAugment

_AUGMENT_STREAM, _HIDE_STREAM = 11, 12
_LEAST_TILES = 4
_ALIKE = ("organ", "diagnosis")
FloatArray = NDArray[np.float32]
Seen = tuple[FloatArray, Regions]
"""A slide's features float32[N, D], and its regions."""


@dataclass(frozen=True)
class SlideExample:
    """One slide with the report that covers it; its bag is in memory (`held`) or on disk."""

    id: str
    report: str
    path: Path
    tiles_hint: int = 0
    held: Bag | None = None

    def load(self) -> Bag:
        """Return the bag."""
        return self.held or read_bag(self.path)


def slide_examples(matched: Sequence[Found], memory_bytes: int) -> list[SlideExample]:
    """Make an example of each slide of each case; bags stay in memory if all are no larger together."""
    sizes = {path: path.stat().st_size for found in matched for path in found.paths}
    keep = sum(sizes.values()) <= memory_bytes
    return [
        SlideExample(found.case.id, found.case.report, path, sizes[path], read_bag(path) if keep else None)
        for found in matched
        for path in found.paths
    ]


def sentences_of(report: str) -> list[str]:
    """Return the statements of a report, in order, each once."""
    return list(dict.fromkeys(report[start:end] for start, end in split_sentences(report)))


def alike_by(report: str) -> tuple[str, ...]:
    """Return what two reports must share to be alike: organ and diagnosis, else the whole text."""
    fields = parse_report(report)
    stated = tuple(fields[key].casefold() for key in _ALIKE if key in fields)
    return stated if len(stated) == len(_ALIKE) else (report,)


def seen_of(bag: Bag, config: FgcrConfig) -> Seen:
    """Return a bag as the network takes it; places that are not known are a row of tiles."""
    features = np.asarray(bag.features, dtype=np.float32)
    xy, span_px = places_of(bag)
    return features, find_regions(xy, span_px, config)


def places_of(bag: Bag) -> tuple[NDArray[np.int32], float]:
    """Return corners int32[N, 2] and side of the tiles in level-0 px; those of a `.pt` fill a square."""
    if bag.has_places:
        return bag.xy, bag.span_px
    side = max(1, int(np.ceil(np.sqrt(len(bag)))))
    rows = np.arange(len(bag))
    return np.stack([rows % side, rows // side], axis=1).astype(np.int32), 1.0


def augmented(bag: Bag, config: FgcrConfig, augment: SlideAugment, rng: np.random.Generator) -> Seen:
    """Return a changed slide: perhaps a box of it, without some tiles, with noise."""
    features = np.asarray(bag.features, dtype=np.float32)
    xy, span_px = places_of(bag)
    kept = np.ones(len(features), dtype=np.bool_)
    if rng.random() < augment.box_chance:
        kept = random_box(xy, rng.uniform(augment.box_least, 1.0), rng)
    dropped = kept & (rng.random(len(features)) >= augment.tile_dropout)
    kept = dropped if dropped.sum() >= min(_LEAST_TILES, kept.sum()) else kept
    features, xy = features[kept], xy[kept]
    if augment.feature_noise > 0:
        scale = np.float32(augment.feature_noise) * features.std(axis=0, keepdims=True)
        features = features + scale * rng.standard_normal(features.shape, dtype=np.float32)
    return features, find_regions(xy, span_px, config)


def random_box(xy: NDArray[np.int32], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which tiles lie in a random square around one of them that holds `share` of all: bool[N]."""
    centre = xy[rng.integers(len(xy))]
    reach = np.abs(xy - centre).max(axis=1)
    count = min(len(xy), max(_LEAST_TILES, round(share * len(xy))))
    inside: NDArray[np.bool_] = reach <= np.partition(reach, count - 1)[count - 1]
    return inside


@dataclass(frozen=True)
class Batcher:
    """Makes batches of `examples`: rows → what the losses take."""

    examples: Sequence[SlideExample]
    words: Words
    prompts: tuple[str, ...]
    config: FgcrConfig
    augment: SlideAugment
    hidden_share: float
    seed: int
    device: torch.device
    _regions: dict[int, Regions] = field(default_factory=dict)

    @cached_property
    def tokens(self) -> dict[str, NDArray[np.int32]]:
        """Every report, sentence and prompt as tokens."""
        reports = list(dict.fromkeys(example.report for example in self.examples))
        sentences = [sentence for report in reports for sentence in sentences_of(report)]
        return {text: self.words.encode(text) for text in [*reports, *sentences, *self.prompts]}

    @cached_property
    def numbers(self) -> dict[str, int]:
        """A number of each different report."""
        return {text: place for place, text in enumerate(dict.fromkeys(e.report for e in self.examples))}

    @cached_property
    def kinds(self) -> dict[tuple[str, ...], int]:
        """A number of each kind of report."""
        return {kind: place for place, kind in enumerate(dict.fromkeys(map(alike_by, self.numbers)))}

    @cached_property
    def targets(self) -> FloatArray:
        """Which report has which prompt, float32[reports, P], in the order of `numbers`."""
        return prompt_sets(list(self.numbers), self.prompts).astype(np.float32)

    def seen(self, row: int) -> Seen:
        """Return a slide as it is; where bags stay in memory, so do their regions."""
        example = self.examples[row]
        if example.held is None:
            return seen_of(example.load(), self.config)
        if row not in self._regions:
            self._regions[row] = seen_of(example.held, self.config)[1]
        return np.asarray(example.held.features, dtype=np.float32), self._regions[row]

    def batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """Return one training batch, changed at random."""
        reports = [self.examples[row].report for row in rows]
        sentences = list(dict.fromkeys(s for report in reports for s in sentences_of(report)))
        said = [[sentence in set(sentences_of(report)) for sentence in sentences] for report in reports]
        texts = self.texts(reports)
        generator = torch.Generator().manual_seed(hash_of(self.seed, epoch, rows[0], _HIDE_STREAM))
        numbers = [self.numbers[report] for report in reports]
        return Batch(
            slides=self.slides(rows, epoch),
            texts=texts,
            prompts=self.texts(self.prompts),
            targets=torch.from_numpy(self.targets[numbers]).to(self.device),
            hidden=hidden_words(texts, self.hidden_share, generator),
            reports=torch.tensor(numbers, device=self.device),
            kinds=torch.tensor([self.kinds[alike_by(report)] for report in reports], device=self.device),
            sentences=self.texts(sentences),
            said=torch.tensor(said, device=self.device),
        )

    def slides(self, rows: Sequence[int], epoch: int | None = None) -> Slides:
        """Return slides: changed at random in an epoch, as they are without one."""
        plain = epoch is None or self.augment == SlideAugment()
        found = [self.seen(row) if plain else self._changed(row, epoch or 0) for row in rows]
        return Slides(*(part.to(self.device) for part in slides_of(found)))

    def texts(self, texts: Sequence[str]) -> Texts:
        """Return texts of `tokens`, padded."""
        return Texts(*(part.to(self.device) for part in texts_of([self.tokens[text] for text in texts])))

    def _changed(self, row: int, epoch: int) -> Seen:
        rng = np.random.default_rng([self.seed, epoch, row, _AUGMENT_STREAM])
        return augmented(self.examples[row].load(), self.config, self.augment, rng)


def hash_of(*numbers: int) -> int:
    """Return a seed for torch that depends on all numbers."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0] >> 1)
