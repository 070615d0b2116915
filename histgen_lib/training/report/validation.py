"""Scores of the weights on the validation split: the loss, and the fields of greedy drafts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from histgen_lib.models.histgen import HistGen
from histgen_lib.models.histgen.decoding import Decoded, DecodingSettings
from histgen_lib.text.synoptic import parse_report
from histgen_lib.text.tokenizers import Tokenizer
from histgen_lib.training.data import Batch, Example, collate, prepare
from histgen_lib.training.report.settings import TrainSettings


@dataclass(frozen=True)
class Validator:
    """Scores weights on `examples`: the loss each time; drafts every `decode_every` epochs and at the end."""

    settings: TrainSettings
    examples: Sequence[Example]
    tokenizer: Tokenizer
    device: torch.device

    def keys(self, epoch: int) -> list[str]:
        """Return the names of the scores that `score` returns after this epoch."""
        return (
            ["val_loss", "val_fields", "val_diagnosis", "val_exact"] if self._decodes(epoch) else ["val_loss"]
        )

    def score(self, model: HistGen, epoch: int) -> dict[str, float]:
        """Return the mean token loss; for drafts also field accuracy, exact diagnosis lines and reports."""
        model.eval()
        with torch.inference_mode():
            scores = {"val_loss": self._loss(model)}
            if self._decodes(epoch):
                scores |= field_scores(self.drafts(model), [e.report for e in self._decoded])
        return scores

    def drafts(self, model: HistGen) -> list[str]:
        """Draft (at most decode_limit) validation slides greedily."""
        return [self.tokenizer.decode(found.tokens.tolist()) for found in self.decode(model, _greedy(model))]

    def decode(self, model: HistGen, settings: DecodingSettings) -> list[Decoded]:
        """Decode (at most decode_limit) validation slides."""
        batches = self._batches(self._decoded)
        return [found for b in batches for found in model.generate_batch(b.features, b.tile_mask, settings)]

    @property
    def _decoded(self) -> Sequence[Example]:
        return self.examples[: self.settings.decode_limit]

    def _decodes(self, epoch: int) -> bool:
        return epoch % self.settings.decode_every == 0 or epoch >= self.settings.epochs

    def _batches(self, examples: Sequence[Example]) -> list[Batch]:
        size = max(self.settings.batch_size, 1)
        return [self._batch(examples[start : start + size]) for start in range(0, len(examples), size)]

    def _batch(self, examples: Sequence[Example]) -> Batch:
        features = [prepare(example.load(), self.settings.arrangement) for example in examples]
        return collate(features, [example.ids for example in examples]).to(self.device)

    def _loss(self, model: HistGen) -> float:
        total = tokens = 0.0
        for batch in self._batches(self.examples):
            log_probs = model(batch.features, batch.tile_mask, batch.inputs)
            chosen = log_probs.gather(2, batch.targets.unsqueeze(-1)).squeeze(-1)
            total -= float((chosen * batch.target_mask).sum())
            tokens += float(batch.target_mask.sum())
        return total / max(tokens, 1.0)


def field_scores(drafts: Sequence[str], reports: Sequence[str]) -> dict[str, float]:
    """Return mean accuracy over fields, where reports have them; exact diagnosis lines; exact reports."""
    right: dict[str, list[bool]] = {}
    for draft, report in zip(drafts, reports, strict=True):
        found = parse_report(draft)
        for key, value in parse_report(report).items():
            right.setdefault(key, []).append(found.get(key) == value)
    accuracy = {key: float(np.mean(hits)) for key, hits in right.items()}
    return {
        "val_fields": float(np.mean(list(accuracy.values()))) if accuracy else 0.0,
        "val_diagnosis": accuracy.get("diagnosis", 0.0),
        "val_exact": float(np.mean([a.strip() == b.strip() for a, b in zip(drafts, reports, strict=True)])),
    }


def is_better(scores: Mapping[str, float], best: Mapping[str, float], by: Literal["loss", "fields"]) -> bool:
    """Return whether `scores` beat `best`. By "fields", no epoch without drafts beats one with them."""
    return _rank(scores, by) > _rank(best, by)


def _rank(scores: Mapping[str, float], by: Literal["loss", "fields"]) -> tuple[float, float]:
    loss = -scores.get("val_loss", math.inf)
    return (scores.get("val_fields", -1.0), loss) if by == "fields" else (0.0, loss)


def _greedy(model: HistGen) -> DecodingSettings:
    return DecodingSettings(method="greedy", max_tokens=model.config.max_tokens)
