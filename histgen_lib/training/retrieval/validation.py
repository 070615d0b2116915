"""Vectors of slides and texts, and how well they find each other on the validation split: MAP@5 of four tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histgen_lib.models.fgcr.network import Fgcr
from histgen_lib.text.synoptic import parse_report
from histgen_lib.training.retrieval.data import Batcher

DEPTH = 5
TASKS = ("image→image", "image→text", "text→image", "text→text")
_AT_ONCE = 64
_ALIKE = ("organ", "diagnosis")
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Embedded:
    """Unit vectors of slides and of their reports, both [n, d] on the CPU."""

    slides: Tensor
    texts: Tensor


def embed(network: Fgcr, batcher: Batcher) -> Embedded:
    """Embed all of a batcher's slides, as they are, and their reports."""
    network.eval()
    rows = range(len(batcher.examples))
    slides, texts = [], []
    with torch.inference_mode():
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            slides.append(network.see(batcher.slides(some)).vector.float().cpu())
            texts.append(network.read(batcher.texts([batcher.examples[r].report for r in some])).vector.float().cpu())
    return Embedded(torch.cat(slides), torch.cat(texts))


@dataclass(frozen=True)
class Validator:
    """Scores a network: slides and reports of the validation split look for those of the training split.

    What is relevant has the same organ and diagnosis; of reports that do not say so, only an equal report is.
    """

    gallery: Batcher
    queries: Batcher

    @cached_property
    def relevant(self) -> Bools:
        """Which training slides each validation slide looks for, bool[Q, G]."""
        queries, gallery = (
            [alike_by(example.report) for example in batcher.examples] for batcher in (self.queries, self.gallery)
        )
        return np.array([[one == other for other in gallery] for one in queries], dtype=np.bool_)

    def score(self, network: Fgcr) -> dict[str, float]:
        """Return "val_map", the mean over the tasks, and each task's own; NaN if nothing can be found."""
        queries, gallery = embed(network, self.queries), embed(network, self.gallery)
        pairs = {
            "image→image": (queries.slides, gallery.slides),
            "image→text": (queries.slides, gallery.texts),
            "text→image": (queries.texts, gallery.slides),
            "text→text": (queries.texts, gallery.texts),
        }
        found = {task: mean_precision((q @ g.T).numpy(), self.relevant) for task, (q, g) in pairs.items()}
        named = {f"val_{task.replace('→', '_')}": value for task, value in found.items()}
        return {"val_map": float(np.mean(list(found.values()))), **named}


def alike_by(report: str) -> tuple[str, ...]:
    """Return what two reports must share to be alike: organ and diagnosis, else the whole text."""
    fields = parse_report(report)
    stated = tuple(fields[key].casefold() for key in _ALIKE if key in fields)
    return stated if len(stated) == len(_ALIKE) else (report,)


def mean_precision(scores: NDArray[np.float32], relevant: Bools, depth: int = DEPTH) -> float:
    """Return MAP@depth as `histgen_lib.evaluation.retrieval` defines it; NaN if no query has anything to find."""
    able = relevant.any(axis=1)
    if not able.any():
        return math.nan
    order = np.argsort(-scores[able], axis=1, kind="stable")[:, :depth]
    found = np.take_along_axis(relevant[able], order, axis=1)
    precisions = np.cumsum(found, axis=1) / np.arange(1, order.shape[1] + 1)
    return float(((precisions * found).sum(axis=1) / np.maximum(found.sum(axis=1), 1)).mean())


def is_better(scores: Mapping[str, float], best: Mapping[str, float]) -> bool:
    """Return whether the mean of the four tasks is higher; any score beats none."""
    value = scores["val_map"]
    return not best or (not math.isnan(value) and value > best["val_map"])
