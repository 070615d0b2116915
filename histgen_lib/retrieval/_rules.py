"""What every adapter of the case index holds to: which entries and queries it takes, which entry stays."""

from __future__ import annotations

import numpy as np

from histgen_lib.retrieval._port import CaseEntry, Query

MOST_REGIONS = 25
"""Of one slide: as many anchors as the retrieval network has at most."""

_UNIT_TOLERANCE = 1e-2


def check_entry(entry: CaseEntry) -> None:
    """Raise ValueError for an entry that would spoil searches: a caller's mistake."""
    vectors, words = entry.vectors, entry.words
    size = len(vectors.slide)
    shapes = (vectors.slide.shape, words.shape, vectors.regions.shape[1:])
    if any(shape != (size,) for shape in shapes) or not size:
        raise ValueError("an entry's vectors have several dimensions")
    if not 1 <= len(vectors.regions) <= MOST_REGIONS or vectors.boxes.shape != (len(vectors.regions), 4):
        raise ValueError(f"an entry has 1 to {MOST_REGIONS} regions, each with its box")
    if not (entry.slide_id and entry.owner and entry.model):
        raise ValueError("an entry has a slide, an owner and a model")
    _check_units(np.vstack([vectors.slide, words, vectors.regions]))


def check_query(query: Query) -> None:
    """Raise ValueError for a query that cannot be answered: a caller's mistake."""
    if query.vectors.ndim != 2 or not query.vectors.size or query.count < 1:
        raise ValueError("a query has at least one vector, and asks for at least one hit")
    _check_units(query.vectors)


def gives_way(entry: CaseEntry, before: CaseEntry) -> bool:
    """Return whether an entry must not replace the one before: a draft of a report that is signed."""
    return before.signed and not entry.signed and before.report_digest == entry.report_digest


def _check_units(vectors: np.ndarray) -> None:
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.all(np.abs(lengths - 1.0) < _UNIT_TOLERANCE):  # also false for what is not finite
        raise ValueError("vectors have unit length")
