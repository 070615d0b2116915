"""Whether evidence pairs of regions are right: the region there has to lie on that slide's lesion, too.

A query is a region that lies on its slide's lesion. In each of the first hits, the region most like it is the
evidence that is shown. Lesions are known only for synthetic slides. Boxes are x, y, width, height in level-0
px.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError
from histgen_lib.evaluation.bootstrap import Estimate, Floats, Statistic, estimate, mean
from histgen_lib.evaluation.evidence import tiles_meeting
from histgen_lib.evaluation.retrieval.metrics import RetrievalScore

_GRID = 16
"""Points along a side of a box at which its share on the lesion is measured."""
MOSTLY = 0.5
_NORMAL = "normal"


@dataclass(frozen=True, eq=False)
class RegionCase:
    """One slide: its region vectors float32[R, d] of unit length, boxes int32[R, 4], and lesion polygons.

    `polygons` float64[M, 2] each, of the field that decides what is relevant; () if it has no lesion.
    """

    slide_id: str
    regions: NDArray[np.float32]
    boxes: NDArray[np.int32]
    polygons: tuple[Floats, ...]


@dataclass(frozen=True)
class EvidencePairs:
    """How often the region there is on the lesion, over all pairs (one for each query and hit).

    `meets`: it overlaps the lesion. `mostly`: at least half of it lies on the lesion.
    """

    queries: int
    pairs: int
    meets: RetrievalScore
    mostly: RetrievalScore

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        scores = {name: getattr(self, name).to_dict() for name in ("meets", "mostly")}
        return {"queries": self.queries, "pairs": self.pairs, **scores}


def lesions_of(truth: Mapping[str, Any], field: str = "diagnosis") -> tuple[Floats, ...]:
    """Return the lesions of a synthetic slide's truth that decide `field`, float64[M, 2] each.

    Normal tissue, which decides the diagnosis of a slide without a lesion, is none.
    """
    found = [
        lesion["polygon"]
        for lesion in truth["lesions"]
        if lesion["field"] == field and lesion.get("kind") != _NORMAL
    ]
    return tuple(np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in found if polygon)


def shares_on(polygons: Sequence[Floats], boxes: NDArray[Any]) -> Floats:
    """Return the share of each box int[R, 4] that lies on the polygons, float64[R], by 16 × 16 points."""
    corners = np.asarray(boxes, dtype=np.float64)
    steps = (np.arange(_GRID) + 0.5) / _GRID
    grid = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    points = (corners[:, None, :2] + grid[None] * corners[:, None, 2:]).reshape(-1, 2)
    inside = tiles_meeting(polygons, points, 0.0)
    return np.asarray(inside.reshape(len(corners), -1).mean(axis=1), dtype=np.float64)


def nearest_by_region(
    queries: Sequence[RegionCase], gallery: Sequence[RegionCase], count: int
) -> NDArray[np.int64]:
    """Return the `count` gallery slides with the regions most like the query's region on its lesion.

    Rows int64[Q, count], the best first, as the case index ranks a query of one vector.
    """
    stacked = np.concatenate([case.regions for case in gallery])
    starts = np.cumsum([0, *(len(case.regions) for case in gallery)])[:-1]
    here = np.stack([case.regions[shares_on(case.polygons, case.boxes).argmax()] for case in queries])
    best = np.maximum.reduceat(here @ stacked.T, starts, axis=1)
    return np.argsort(-best, axis=1, kind="stable")[:, :count]


def score_regions(
    queries: Sequence[RegionCase],
    gallery: Sequence[RegionCase],
    hits: NDArray[np.int64],
    *,
    bootstrap: int = 0,
    seed: int = 0,
) -> EvidencePairs:
    """Measure the evidence pairs of each query's hits int64[Q, k] (rows of `gallery`).

    The query's region is the one that lies most on its lesion; a slide without a region mostly on its lesion
    is no query. A hit without a lesion has no right region and counts as wrong. Chance is a region drawn at
    random from the same hits. Intervals resample the query slides. Raises
    InvalidInputError("evaluation-no-evidence").
    """
    rows = [
        pairs for case, found in zip(queries, hits, strict=True) if (pairs := _pairs(case, found, gallery))
    ]
    if not rows:
        raise InvalidInputError(
            "evaluation-no-evidence",
            "No query slide has a region on its lesion.",
            hint="Score synthetic slides together with their truth files.",
        )
    owner = np.repeat(np.arange(len(rows)), [len(pairs) for pairs in rows])
    table = np.array([pair for pairs in rows for pair in pairs], dtype=np.float64)
    scores = _estimates(table, owner, len(rows), bootstrap, seed)
    chance = table[:, 2:].mean(axis=0)
    meets, mostly = (
        RetrievalScore(scores[name], float(chance[place])) for place, name in enumerate(("meets", "mostly"))
    )
    return EvidencePairs(len(rows), len(table), meets, mostly)


def _pairs(
    case: RegionCase, found: NDArray[np.int64], gallery: Sequence[RegionCase]
) -> list[tuple[float, float, float, float]]:
    """Score one query: for each hit (meets, mostly, and both for a region drawn at random)."""
    own = shares_on(case.polygons, case.boxes)
    here = int(own.argmax())
    if own[here] < MOSTLY:
        return []
    scored = []
    for hit in (gallery[place] for place in found):
        shares = shares_on(hit.polygons, hit.boxes)
        there = shares[int((hit.regions @ case.regions[here]).argmax())]
        met, most = shares > 0, shares >= MOSTLY
        scored.append((float(there > 0), float(there >= MOSTLY), float(met.mean()), float(most.mean())))
    return scored


def _estimates(
    table: Floats, owner: NDArray[np.int64], count: int, bootstrap: int, seed: int
) -> dict[str, Estimate]:
    names = ("meets", "mostly")
    over_pairs = mean(names, table[:, :2])
    over_slides = Statistic(names, lambda weights: over_pairs.compute(weights[:, owner]))
    return estimate([over_slides], count, resamples=bootstrap, seed=seed)
