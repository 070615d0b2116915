"""A second, easier question asked while training: each field's value, from the maxima over the regions.

The words of a report say little about a finding that lies in one tile: until the decoder knows where to look
it learns nothing about what to look for, and the other way round. The probe breaks the circle: a maximum
over regions always finds the one that matters. It is thrown away after training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from histgen_lib.models.histgen import HistGen
from histgen_lib.models.histgen.encoder import RegionMemory
from histgen_lib.text.synoptic import parse_report

_MOST_VALUES = 64
_LEAST_SHARE = 0.002
ABSENT = -1


@dataclass(frozen=True)
class FieldValues:
    """Fields of a training set's reports that take few values, each often enough: name to value to number."""

    numbers: dict[str, dict[str, int]]

    @classmethod
    def of(cls, reports: Sequence[str]) -> FieldValues:
        """Collect what the reports state; free text (more than 64 frequent values) is left out."""
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
        """Value numbers of one report, in the order of `numbers`; ABSENT where it has no (known) value."""
        fields = parse_report(report)
        return [values.get(fields.get(name, ""), ABSENT) for name, values in self.numbers.items()]


class ProbedHistGen(nn.Module):
    """HistGen with its probe: what a training step runs; one module, so that DDP sees every weight."""

    def __init__(self, model: HistGen, values: FieldValues) -> None:
        super().__init__()
        self.model = model
        self.sizes = [len(numbers) for numbers in values.numbers.values()]
        self.probe = nn.Linear(model.config.d_model, max(sum(self.sizes), 1))  # torch dislikes empty layers

    def forward(self, features: Tensor, tile_mask: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """As HistGen.forward, and the probe's logits [B, sum(sizes)]."""
        slots = self.model.memory_slots()
        memory = self.model.region_memory(features, tile_mask, slots)
        return self.model.text_log_probs(memory, ids, slots), self._ask(memory)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the values, summed over fields, averaged over slides; labels int64[B, F]."""
        cost = logits.new_zeros(())
        parts = torch.split(logits, self.sizes, dim=1) if self.sizes else ()
        for place, part in enumerate(parts):
            cost = cost + functional.cross_entropy(
                part, labels[:, place], ignore_index=ABSENT, reduction="sum"
            )
        return cost / len(labels)

    def _ask(self, memory: RegionMemory) -> Tensor:
        lowest = torch.finfo(memory.regions.dtype).min
        strongest = memory.regions.masked_fill(~memory.valid.unsqueeze(-1), lowest).amax(dim=1)
        answers: Tensor = self.probe(strongest)
        return answers
