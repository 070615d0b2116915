"""Late interaction: how alike a query's vectors and an entry's regions are, and which regions say so."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from histgen_lib.retrieval._port import CaseEntry, Floats, Hit, Ints, Pair, Query, Vectors

Places = npt.NDArray[np.int64]
"""Positions in stacked arrays."""


def starts_of(counts: Ints | Places) -> Places:
    """Return where each entry's regions start when those of all are stacked. `counts` int[n], each >= 1."""
    starts = np.zeros(len(counts), np.int64)
    np.cumsum(counts[:-1], out=starts[1:])
    return starts


def maxsim(queries: Floats, regions: Floats, starts: Places) -> Floats:
    """Return MaxSim float32[n]: the mean over the queries of their best cosine with an entry's regions.

    `queries` float32[Q, d]; `regions` float32[N, d], those of all entries stacked; `starts` int[n].
    """
    if not len(starts):
        return np.zeros(0, np.float32)
    best = np.maximum.reduceat(queries @ regions.T, starts, axis=1)
    scores: Floats = best.mean(axis=0)
    return scores


def pairs_of(queries: Floats, vectors: Vectors) -> tuple[Pair, ...]:
    """Return each query vector with its best region, the most alike first."""
    cosines = queries @ vectors.regions.T
    best = cosines.argmax(axis=1)
    similarities = cosines[np.arange(len(best)), best]
    boxes, values = vectors.boxes[best].tolist(), similarities.tolist()
    order = np.argsort(-similarities, kind="stable").tolist()
    return tuple(Pair(here, tuple(boxes[here]), values[here]) for here in order)


def score(query: Query, entry: CaseEntry) -> float:
    """Return an entry's exact score, as `Query` says."""
    vectors = entry.vectors
    if query.against == "regions":
        return float((query.vectors @ vectors.regions.T).max(axis=1).mean())
    return float((query.vectors @ (vectors.slide if query.against == "slides" else entry.words)).mean())


def best_hits(query: Query, entries: Iterable[CaseEntry]) -> list[Hit]:
    """Score entries exactly; return the best cases, one hit a case, the best first."""
    scored = sorted(((-score(query, entry), entry.slide_id, entry) for entry in entries), key=lambda s: s[:2])
    hits: dict[str, Hit] = {}
    for negative, _, entry in scored:
        if entry.owner not in hits:
            hits[entry.owner] = Hit(entry, -negative, pairs_of(query.vectors, entry.vectors))
        if len(hits) == query.count:
            break
    return list(hits.values())
