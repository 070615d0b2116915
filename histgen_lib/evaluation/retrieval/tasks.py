"""The four tasks – slides and reports that look for slides and reports – and the same with regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.evaluation.retrieval.metrics import Bools, RetrievalScore, rank, score_ranked

Floats = NDArray[np.float32]

SLIDE_TASKS = ("image→image", "image→text", "text→image", "text→text")
REGION_TASKS = ("regions→regions", "text→regions")


@dataclass(frozen=True, eq=False)
class Collection:
    """Cases as a network sees them; all vectors have unit length.

    `slides`, `texts` float32[n, d]; a search without words has no `texts`. `regions`: float32[R_i, d] of each
    slide.
    """

    slides: Floats
    texts: Floats | None = None
    regions: Sequence[Floats] = ()


@dataclass(frozen=True, eq=False)
class Sought:
    """What is relevant, bool[Q, G]; how alike the prompts are, float[Q, G]; and at which depths to score."""

    relevant: Bools
    prompts: NDArray[Any] | None = None
    depths: tuple[int, ...] = (1, 3, 5, 10)
    bootstrap: int = 0
    seed: int = 0


@dataclass(frozen=True)
class TaskScores:
    """The figures of each task by its name, and the number of queries that had something to find."""

    queries: int
    tasks: Mapping[str, Mapping[str, RetrievalScore]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        named = {
            task: {name: score.to_dict() for name, score in scores.items()}
            for task, scores in self.tasks.items()
        }
        return {"queries": self.queries, "tasks": named}


def similarities(queries: Collection, gallery: Collection) -> dict[str, Floats]:
    """Return the scores float32[Q, G] of each task that the collections have vectors for."""
    found = {"image→image": queries.slides @ gallery.slides.T}
    if queries.texts is not None and gallery.texts is not None:
        found |= {
            "image→text": queries.slides @ gallery.texts.T,
            "text→image": queries.texts @ gallery.slides.T,
            "text→text": queries.texts @ gallery.texts.T,
        }
    if queries.regions and gallery.regions:
        found["regions→regions"] = max_sim(queries.regions, gallery.regions)
        if queries.texts is not None:
            found["text→regions"] = max_sim([text[None] for text in queries.texts], gallery.regions)
    return found


def max_sim(queries: Sequence[Floats], gallery: Sequence[Floats]) -> Floats:
    """Return late interaction: the mean over a query's vectors [Q_i, d] of the best cosine with a region.

    Float32[Q, G], as the case index ranks.
    """
    stacked = np.concatenate(gallery)
    starts = np.cumsum([0, *map(len, gallery)])[:-1]
    return np.stack([np.maximum.reduceat(one @ stacked.T, starts, axis=1).mean(axis=0) for one in queries])


def score_tasks(scores: Mapping[str, NDArray[Any]], sought: Sought) -> TaskScores:
    """Score each task by its similarities float[Q, G]. Raises as `rank`."""
    found: dict[str, Mapping[str, RetrievalScore]] = {}
    queries = 0
    for task, table in scores.items():
        ranked = rank(table, sought.relevant, max(sought.depths))
        queries = len(ranked)
        found[task] = score_ranked(
            ranked,
            sought.depths,
            similarity=sought.prompts,
            bootstrap=sought.bootstrap,
            seed=sought.seed,
        )
    return TaskScores(queries, found)
