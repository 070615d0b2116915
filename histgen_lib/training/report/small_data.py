"""What helps HistGen learn from a few thousand slides: scaled initial weights, and a probe.

The published initialisation leaves tile features several times weaker than the position codes added to
them, and a network trained on a few thousand slides needs most of its time to undo that. Here the first two
layers are set from the training features and, if the tile encoder came with its heads, along the findings
they distinguish.

The probe asks a second, easier question while training: each field's value, from the maxima over the regions.
The words of a report say little about a finding that lies in one tile: until the decoder knows where to look
it learns nothing about what to look for, and vice versa. The probe breaks the circle, since a maximum over
regions always finds the one that matters. It is discarded after training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.models.histgen import HistGen
from histgen_lib.models.histgen.encoder import RegionMemory
from histgen_lib.text.synoptic import parse_report
from histgen_lib.training.data import Arrangement, Example, prepare

_SAMPLED_SLIDES = 200
_SAMPLED_TILES = 512
"""Most tiles taken from one slide: full-size bags of all sampled slides would not fit into memory."""

_GAIN = 4.0
"""Standard deviation of an embedded feature; position codes have about 0.7."""

_MOST_VALUES = 64
_LEAST_SHARE = 0.002
ABSENT = -1


def network_inputs(examples: Sequence[Example], arrangement: Arrangement, seed: int) -> Tensor:
    """Return sample inputs [M, D] of the network: tiles of some training slides, or the slides' means."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(examples))[:_SAMPLED_SLIDES]
    bags = [prepare(examples[row].load(), "slide") for row in chosen]
    if arrangement == "mean":
        return torch.from_numpy(np.stack([tiles.mean(axis=0) for tiles in bags]))
    return torch.from_numpy(np.concatenate([_some(tiles, rng) for tiles in bags]))


def _some(tiles: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    return tiles if len(tiles) <= _SAMPLED_TILES else tiles[rng.permutation(len(tiles))[:_SAMPLED_TILES]]


def scale_start(model: HistGen, sample: Tensor, directions: Tensor | None = None) -> None:
    """Set `feature_map` and `feature_embed` so that embedded `sample` rows [M, D] have deviation 4.

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


@dataclass(frozen=True)
class FieldValues:
    """Report fields with few, frequent values in a training set: field name to value to class number."""

    numbers: dict[str, dict[str, int]]

    @classmethod
    def of(cls, reports: Sequence[str]) -> FieldValues:
        """Collect the fields of the reports; free text (more than 64 frequent values) is left out."""
        parsed = [parse_report(report) for report in reports]
        least = max(2.0, _LEAST_SHARE * len(reports))
        numbers = {}
        for name in sorted({name for fields in parsed for name in fields}):
            counts = Counter(fields[name] for fields in parsed if name in fields)
            frequent = sorted(value for value, count in counts.items() if count >= least)
            if 2 <= len(frequent) <= _MOST_VALUES:
                numbers[name] = {value: number for number, value in enumerate(frequent)}
        return cls(numbers)

    def label(self, report: str) -> list[int]:
        """Return a report's class numbers in the order of `numbers`; ABSENT for missing or unknown values."""
        fields = parse_report(report)
        return [values.get(fields.get(name, ""), ABSENT) for name, values in self.numbers.items()]


class ProbedHistGen(nn.Module):
    """HistGen with its probe, as a training step runs it; one module, so that DDP sees every weight."""

    def __init__(self, model: HistGen, values: FieldValues) -> None:
        super().__init__()
        self.model = model
        self.sizes = [len(numbers) for numbers in values.numbers.values()]
        self.probe = nn.Linear(model.config.d_model, max(sum(self.sizes), 1))  # torch warns of empty layers

    def forward(self, features: Tensor, tile_mask: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the result of HistGen.forward, and the probe's logits [B, sum(sizes)]."""
        slots = self.model.memory_slots()
        memory = self.model.region_memory(features, tile_mask, slots)
        return self.model.text_log_probs(memory, ids, slots), self._logits(memory)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy, summed over fields and averaged over slides; labels int64[B, F]."""
        cost = logits.new_zeros(())
        parts = torch.split(logits, self.sizes, dim=1) if self.sizes else ()
        for place, part in enumerate(parts):
            cost = cost + functional.cross_entropy(
                part, labels[:, place], ignore_index=ABSENT, reduction="sum"
            )
        return cost / len(labels)

    def _logits(self, memory: RegionMemory) -> Tensor:
        lowest = torch.finfo(memory.regions.dtype).min
        strongest = memory.regions.masked_fill(~memory.valid.unsqueeze(-1), lowest).amax(dim=1)
        logits: Tensor = self.probe(strongest)
        return logits
