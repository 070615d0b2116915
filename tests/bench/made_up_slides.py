"""Region vectors of many slides, made up: tissue with structure, and directions without any."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from histgen_lib.retrieval import Floats
from histgen_lib.retrieval._postings import as_floats

Maker = Callable[[int, int, np.random.Generator], Floats]
"""Makes the regions of some slides: float32[slides, regions, d]."""

_DIAGNOSES, _OWN, _SHARED = 200, 6, 40
_STYLE, _NOISE = 0.35, 0.6


def tissue(size: int, seed: int = 0) -> Maker:
    """200 diagnoses, each with 6 patterns of its own around one direction, and 40 patterns that all share.

    Of a slide's regions a share, from few to nearly all, shows its diagnosis; the rest, what all tissue has.
    A slide has a style (its stain); each region is noisy.
    """
    rng = np.random.default_rng(seed)
    shared = _units(rng.standard_normal((_SHARED, size)))
    centres = _units(rng.standard_normal((_DIAGNOSES, 1, size)))
    own = _units(centres + 0.8 * _units(rng.standard_normal((_DIAGNOSES, _OWN, size))))

    def make(slides: int, regions: int, rng: np.random.Generator) -> Floats:
        diagnosis = rng.integers(0, _DIAGNOSES, (slides, 1))
        shows = rng.random((slides, regions)) < rng.beta(2, 2, (slides, 1))
        seen = np.where(
            shows[..., None],
            own[diagnosis, rng.integers(0, _OWN, (slides, regions))],
            shared[rng.integers(0, _SHARED, (slides, regions))],
        )
        style = _STYLE * _units(rng.standard_normal((slides, 1, size)))
        return _units(seen + style + _NOISE * _units(rng.standard_normal((slides, regions, size))))

    return make


def directions(size: int, seed: int = 0) -> Maker:
    """Each region a random direction: the worst case, in which nothing can be left out."""
    del seed

    def make(slides: int, regions: int, rng: np.random.Generator) -> Floats:
        return _units(rng.standard_normal((slides, regions, size)))

    return make


def many(make: Maker, slides: int, regions: int, size: int, seed: int = 1) -> npt.NDArray[np.float16]:
    """Return the regions of many slides, float16[slides, regions, d]."""
    rng = np.random.default_rng(seed)
    made = np.empty((slides, regions, size), np.float16)
    for start in range(0, slides, 5_000):
        made[start : start + 5_000] = make(min(5_000, slides - start), regions, rng)
    return made


def exact(regions: npt.NDArray[np.float16], queries: Floats) -> Floats:
    """Return MaxSim of all slides float32[slides], computed in full."""
    return exact_of_all(regions, [queries])[0]


def exact_of_all(regions: npt.NDArray[np.float16], asked: Sequence[Floats]) -> Floats:
    """Return MaxSim of all slides for several queries float32[queries, slides], computed in full."""
    scores = np.empty((len(asked), len(regions)), np.float32)
    for start in range(0, len(regions), 2_000):
        some = as_floats(regions[start : start + 2_000])
        for row, queries in zip(scores, asked, strict=True):
            cosines = (some.reshape(-1, some.shape[2]) @ queries.T).reshape(*some.shape[:2], -1)
            row[start : start + 2_000] = cosines.max(axis=1).mean(axis=1)
    return scores


def _units(vectors: npt.NDArray[np.float64]) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
