"""Entries of a case index, made up: slides of a class look alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from histgen_lib.retrieval import CaseEntry, Filters, Floats, Query, Vectors

MODEL = "m" * 64
SIZE = 16


def units(rng: np.random.Generator, count: int, size: int = SIZE, *, near: Floats | None = None) -> Floats:
    """Return random vectors of unit length float32[count, size], near one if that is given."""
    vectors = rng.standard_normal((count, size))
    if near is not None:
        vectors = near + 0.1 * vectors / np.sqrt(size)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def entry(
    slide_id: str,
    seed: int = 0,
    *,
    regions: int = 3,
    size: int = SIZE,
    near: Floats | None = None,
    **more: Any,
) -> CaseEntry:
    """Return an entry whose vectors follow from the seed; its owner is the slide unless told otherwise."""
    rng = np.random.default_rng(seed)
    boxes = np.arange(4 * regions, dtype=np.int32).reshape(regions, 4) + 1
    vectors = Vectors(units(rng, 1, size, near=near)[0], units(rng, regions, size, near=near), boxes)
    values = {
        "owner": slide_id,
        "report_digest": f"digest-{slide_id}",
        "text": f"Report of {slide_id}.",
        "model": MODEL,
        **more,
    }
    return CaseEntry(slide_id=slide_id, vectors=vectors, words=units(rng, 1, size, near=near)[0], **values)


def like(found: CaseEntry, against: str = "regions", **more: Any) -> Query:
    """Return the query for what is like an entry."""
    vectors = {
        "regions": found.vectors.regions,
        "slides": found.vectors.slide[None],
        "texts": found.words[None],
    }[against]
    filters = more.pop("filters", Filters())
    return Query(vectors, against, more.pop("model", found.model), filters=filters, **more)
