"""Figures of ranked retrieval, as FGCR's authors (Medical Image Analysis 2024) and as textbooks define them.

For one query, rel(r) is 1 if its hit at rank r = 1, 2, … is relevant; prec(r) = (rel(1) + … + rel(r)) / r.

P@k       1 if any of the first k hits is relevant (as published; textbooks call it the hit rate or success@k)
ACC@k     prec(k) (as published; textbooks call it precision@k)
MAP@k     the mean of prec(r) over the relevant hits among the first k, 0 without one (as published)
recall@k  relevant hits among the first k / all relevant ones of the gallery
nDCG@k    Σ rel(r) / log2(r + 1) over the first k / the same sum of the best possible ranking

The paper states P@3, ACC@5 and MAP@5. Textbook AP@k divides by min(k, all relevant ones) where MAP@k divides
by the relevant hits among the first k: one relevant hit at rank 1 and none after it is MAP@5 = 1, and AP@5 =
0.2 if five could have been found. MAP@k is never smaller, and equal if all of the first k are relevant.

A query without any relevant item in the gallery has nothing to find and is left out; `Ranked` says how many
are left. Chance is the exact expectation under a random order of the gallery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError
from histgen_lib.evaluation.bootstrap import Estimate, Floats, estimate, finite, mean

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RetrievalScore:
    """One figure: its estimate over the queries, and what a random order of the same gallery reaches.

    `values` float64[n]: each query's own.
    """

    estimate: Estimate
    chance: float
    values: Floats = field(default_factory=lambda: np.zeros(0), repr=False)

    def to_dict(self) -> dict[str, float | None]:
        """Return the four numbers JSON-ready, with None for NaN."""
        return self.estimate.to_dict() | {"chance": finite(self.chance)}


@dataclass(frozen=True, eq=False)
class Ranked:
    """Queries that have something to find, with their hits in order, best first.

    `queries` int64[n] are the rows of these queries; `order` int64[n, K] the gallery items of the K first
    hits; `relevant` bool[n, K] whether they are; `found_of` int64[n] how many relevant items the gallery has
    for each query, `gallery` how many items in all.
    """

    queries: Ints
    order: Ints
    relevant: Bools
    found_of: Ints
    gallery: int

    @cached_property
    def hits_so_far(self) -> Ints:
        """Relevant hits up to each rank, int64[n, K]."""
        return np.cumsum(self.relevant, axis=1)

    def __len__(self) -> int:
        return len(self.queries)


def rank(scores: NDArray[Any], relevant: Bools, depth: int) -> Ranked:
    """Rank a gallery for each query by `scores` float[Q, G], higher first, to `depth` hits.

    `relevant` bool[Q, G] says which items are relevant. Equal scores keep the gallery's order.
    Raises InvalidInputError("evaluation-retrieval-empty") if no query has a relevant item, or the gallery
    fewer than `depth` items.
    """
    counts, gallery = relevant.sum(axis=1), relevant.shape[1]
    queries = np.flatnonzero(counts)
    if not len(queries) or not 1 <= depth <= gallery:
        raise InvalidInputError(
            "evaluation-retrieval-empty",
            f"There is nothing to score: {len(queries)} queries have a relevant item in the gallery, and the "
            f"first {depth} hits are asked for.",
            hint="Give more cases, another field to compare, or a smaller number of hits.",
        )
    order = np.argsort(-np.asarray(scores, dtype=np.float64)[queries], axis=1, kind="stable")[:, :depth]
    found = np.take_along_axis(relevant[queries], order, axis=1)
    return Ranked(queries, order, found, counts[queries], gallery)


def score_ranked(
    ranked: Ranked,
    depths: Sequence[int] = (1, 3, 5, 10),
    *,
    similarity: NDArray[Any] | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, RetrievalScore]:
    """Compute every figure at every depth k ≤ K: "P@3", "ACC@5", "MAP@5", "recall@10", "nDCG@5" and so on.

    With `similarity` float[Q, G], such as `prompt_jaccard`, also "Jaccard@k", its mean over the first k hits.
    `bootstrap` resamples of the queries give 95 % intervals.
    """
    values: dict[str, Floats] = {}
    chances: dict[str, Floats] = {}
    for depth in depths:
        for name, compute in _FIGURES.items():
            values[f"{name}@{depth}"] = compute(ranked, depth)
            chances[f"{name}@{depth}"] = _CHANCES[name](ranked, depth)
        if similarity is not None:
            values[f"Jaccard@{depth}"] = _likeness(ranked, similarity, depth)
            chances[f"Jaccard@{depth}"] = similarity[ranked.queries].mean(axis=1)
    table = np.stack(list(values.values()), axis=1)
    found = estimate([mean(tuple(values), table)], len(ranked), resamples=bootstrap, seed=seed)
    return {
        name: RetrievalScore(found[name], float(chances[name].mean()), own) for name, own in values.items()
    }


def difference(one: RetrievalScore, other: RetrievalScore, *, bootstrap: int = 0, seed: int = 0) -> Estimate:
    """Return how much higher `one` is than `other` on the same queries, with its interval."""
    table = (one.values - other.values)[:, None]
    return estimate([mean(("gain",), table)], len(table), resamples=bootstrap, seed=seed)["gain"]


def prompt_jaccard(queries: Bools, gallery: Bools) -> Floats:
    """Return the Jaccard index float64[Q, G] of sets bool[Q, P] and bool[G, P]; of two empty sets it is 1."""
    both = queries.astype(np.float64) @ gallery.T.astype(np.float64)
    either = queries.sum(axis=1)[:, None] + gallery.sum(axis=1)[None, :] - both
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def _any_hit(ranked: Ranked, k: int) -> Floats:
    return np.asarray(ranked.relevant[:, :k].any(axis=1), dtype=np.float64)


def _precision(ranked: Ranked, k: int) -> Floats:
    return np.asarray(ranked.relevant[:, :k].mean(axis=1), dtype=np.float64)


def _mean_precision(ranked: Ranked, k: int) -> Floats:
    found = ranked.relevant[:, :k]
    precisions = ranked.hits_so_far[:, :k] / np.arange(1, k + 1)
    return np.asarray((precisions * found).sum(axis=1) / np.maximum(found.sum(axis=1), 1), dtype=np.float64)


def _recall(ranked: Ranked, k: int) -> Floats:
    return np.asarray(ranked.relevant[:, :k].sum(axis=1) / ranked.found_of, dtype=np.float64)


def _gain(ranked: Ranked, k: int) -> Floats:
    return np.asarray(ranked.relevant[:, :k] @ _discounts(k) / _best_gain(ranked, k), dtype=np.float64)


def _likeness(ranked: Ranked, similarity: NDArray[Any], k: int) -> Floats:
    chosen = np.take_along_axis(similarity[ranked.queries], ranked.order[:, :k], axis=1)
    return np.asarray(chosen.mean(axis=1), dtype=np.float64)


def _discounts(k: int) -> Floats:
    return 1.0 / np.log2(np.arange(2, k + 2))


def _best_gain(ranked: Ranked, k: int) -> Floats:
    sums: Floats = np.cumsum(_discounts(k))
    return np.asarray(sums[np.minimum(ranked.found_of, k) - 1], dtype=np.float64)


def _chance_any(ranked: Ranked, k: int) -> Floats:
    drawn = np.arange(k)
    missed = np.clip(ranked.gallery - ranked.found_of, 0, None)[:, None] - drawn
    return np.asarray(1.0 - (np.clip(missed, 0, None) / (ranked.gallery - drawn)).prod(axis=1))


def _chance_precision(ranked: Ranked, k: int) -> Floats:
    return np.asarray(ranked.found_of / ranked.gallery, dtype=np.float64)


def _chance_mean_precision(ranked: Ranked, k: int) -> Floats:
    """Average over the number m of relevant hits among k (hypergeometric), which lie anywhere among them."""
    ranks = np.arange(1, k + 1)
    total = np.zeros(len(ranked))
    for m, share in enumerate(_numbers_found(ranked, k)):
        among_earlier = (ranks - 1) * (m - 1) / max(k - 1, 1)
        total += share * (float(((1 + among_earlier) / ranks).sum()) / k if m else 0.0)
    return total


def _numbers_found(ranked: Ranked, k: int) -> list[Floats]:
    """Return the probability of m = 0 … k relevant items among k drawn without return, each float64[n]."""
    shares = [np.ones(len(ranked))] + [np.zeros(len(ranked)) for _ in range(k)]
    for drawn in range(k):
        left = ranked.gallery - drawn
        hit = [np.clip(ranked.found_of - m, 0, None) / left for m in range(k + 1)]
        shares = [shares[m] * (1 - hit[m]) + (shares[m - 1] * hit[m - 1] if m else 0.0) for m in range(k + 1)]
    return shares


def _chance_recall(ranked: Ranked, k: int) -> Floats:
    return np.full(len(ranked), k / ranked.gallery)


def _chance_gain(ranked: Ranked, k: int) -> Floats:
    return np.asarray(ranked.found_of / ranked.gallery * _discounts(k).sum() / _best_gain(ranked, k))


_FIGURES = {
    "P": _any_hit,
    "ACC": _precision,
    "MAP": _mean_precision,
    "recall": _recall,
    "nDCG": _gain,
}
_CHANCES = {
    "P": _chance_any,
    "ACC": _chance_precision,
    "MAP": _chance_mean_precision,
    "recall": _chance_recall,
    "nDCG": _chance_gain,
}
