"""How well slides and reports of the validation split find those of the training split: MAP@5.

Where reports are free text, hardly any has its like among others. Each slide of the validation split then
looks for its own report among those of the split, and each report for its slide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from histgen_lib.models.fgcr.network import Fgcr
from histgen_lib.training.retrieval.data import Batcher, alike_by
from histgen_lib.training.retrieval.embedding import embed_slides, embed_texts

DEPTH = 5
TASKS = ("image→image", "image→text", "text→image", "text→text")
_LEAST_ABLE = 0.5
"""Share of the validation slides that need something alike among the training slides to be scored by it."""
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Validator:
    """Scores a network: slides and reports of the validation split look for those of the training split.

    What is relevant has the same organ and diagnosis; of reports that do not say so, only an equal report is.
    If fewer than half of the slides have anything relevant, slides and reports of the validation split look
    for their own counterpart.
    """

    gallery: Batcher
    queries: Batcher

    @cached_property
    def relevant(self) -> Bools:
        """Which training slides each validation slide looks for, bool[Q, G]."""
        queries, gallery = (
            [alike_by(example.report) for example in batcher.examples]
            for batcher in (self.queries, self.gallery)
        )
        return np.array([[one == other for other in gallery] for one in queries], dtype=np.bool_)

    def score(self, network: Fgcr) -> dict[str, float]:
        """Return "val_map", the mean over the tasks, and each task's own."""
        network.eval()
        slides, texts = _vectors(network, self.queries)
        if self.relevant.any(axis=1).mean() < _LEAST_ABLE:
            cross = slides @ texts.T
            scores, relevant = {"image→text": cross, "text→image": cross.T}, self._own
        else:
            others, other_texts = _vectors(network, self.gallery)
            tables = (slides @ others.T, slides @ other_texts.T, texts @ others.T, texts @ other_texts.T)
            scores, relevant = dict(zip(TASKS, tables, strict=True)), self.relevant
        found = {task: mean_precision(table, relevant) for task, table in scores.items()}
        named = {f"val_{task.replace('→', '_')}": value for task, value in found.items()}
        return {"val_map": float(np.mean(list(found.values()))), **named}

    @cached_property
    def _own(self) -> Bools:
        """Which reports of the validation split are equal, bool[Q, Q]."""
        reports = [example.report for example in self.queries.examples]
        return np.array([[one == other for other in reports] for one in reports], dtype=np.bool_)


def _vectors(network: Fgcr, batcher: Batcher) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    slides, _ = embed_slides(network, map(batcher.seen, range(len(batcher.examples))))
    return slides, embed_texts(network, [batcher.tokens[example.report] for example in batcher.examples])


def mean_precision(scores: NDArray[np.float32], relevant: Bools, depth: int = DEPTH) -> float:
    """Return MAP@depth as `histgen_lib.evaluation.retrieval` defines it; NaN if nothing can be found."""
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
