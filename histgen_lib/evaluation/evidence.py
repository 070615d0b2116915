"""Whether evidence points at the right place: a sentence's strongest tiles against the lesion behind it.

Lesions are known only for synthetic slides. Coordinates are level-0 pixels throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histgen_lib.errors import InvalidInputError
from histgen_lib.evaluation.bootstrap import Estimate, Floats, Statistic, estimate, mean
from histgen_lib.pipeline.reliability import EvidenceFigures
from histgen_lib.text.synoptic import parse_report

TOP = 3


@dataclass(frozen=True)
class EvidenceCase:
    """One sentence of a slide: the field it states, its tiles, and the lesion that decides the field.

    `strongest` float64[K, 2] are the top-left corners of its evidence tiles, strongest first; `all_tiles`
    float64[N, 2] those of the whole slide; `span_px` is a tile's side; `polygons` float64[M, 2] each.
    """

    slide_id: str
    field: str
    strongest: Floats
    all_tiles: Floats
    span_px: float
    polygons: tuple[Floats, ...]


@dataclass(frozen=True)
class EvidenceScore:
    """Hit rates of one field: how often the strongest tile, or one of the three strongest, meets the lesion.

    `chance_*` are the rates of tiles drawn at random from the same slides.
    """

    cases: int
    top1: Estimate
    top3: Estimate
    chance_top1: Estimate
    chance_top3: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        rates = {name: getattr(self, name).to_dict() for name in _RATES}
        return {"cases": self.cases, **rates}


@dataclass(frozen=True)
class EvidenceResult:
    """Hit rates over all cases, and for each field."""

    overall: EvidenceScore
    fields: dict[str, EvidenceScore]

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {
            "overall": self.overall.to_dict(),
            "fields": {name: score.to_dict() for name, score in self.fields.items()},
        }


_RATES = ("top1", "top3", "chance_top1", "chance_top3")


def evidence_hit_rate(cases: Sequence[EvidenceCase], *, bootstrap: int = 0, seed: int = 0) -> EvidenceResult:
    """Measure how often the strongest tile, or one of the three strongest, intersects the case's lesion.

    Intervals resample slides. Raises InvalidInputError `evaluation-no-evidence` without cases.
    """
    if not cases:
        raise InvalidInputError(
            "evaluation-no-evidence",
            "No sentence has both evidence and a lesion to compare it with.",
            hint="Score drafts of synthetic slides together with their truth files.",
        )
    slides = {slide: number for number, slide in enumerate(dict.fromkeys(case.slide_id for case in cases))}
    owner = np.array([slides[case.slide_id] for case in cases])
    rates = np.array([_case_rates(case) for case in cases], dtype=np.float64)
    field_of = np.array([case.field for case in cases])
    masks = {"": np.ones(len(cases), dtype=np.bool_)}
    masks |= {field: field_of == field for field in dict.fromkeys(case.field for case in cases)}
    scores = {name: _score(rates, mask, owner, bootstrap, seed) for name, mask in masks.items()}
    return EvidenceResult(scores.pop(""), scores)


def evidence_figures(cases: Sequence[EvidenceCase]) -> EvidenceFigures:
    """Count, for a model's config.json, the lines of each field and those whose strongest tile was right.

    Raises as `evidence_hit_rate`.
    """
    scores = evidence_hit_rate(cases).fields
    return EvidenceFigures(
        {name: (score.cases, round(score.top1.value * score.cases)) for name, score in sorted(scores.items())}
    )


def cases_from_draft(
    draft: Mapping[str, Any], truth: Mapping[str, Any], all_tiles: ArrayLike, span_px: float
) -> list[EvidenceCase]:
    """Collect a synthetic slide's cases: sentences of `draft.json` whose field has a lesion in the truth.

    `all_tiles` are the slide's tile corners [N, 2] and `span_px` their side, both from its bag. The first
    sentence that states a field counts, whether right or wrong.
    """
    tiles = np.asarray(all_tiles, dtype=np.float64).reshape(-1, 2)
    lesions = _lesions(truth)
    cases: dict[str, EvidenceCase] = {}
    for sentence in draft["sentences"]:
        for field in parse_report(sentence["text"]):
            if field in lesions and field not in cases and sentence["evidence"]:
                strongest = _strongest(sentence)
                slide_id = str(draft["slide_id"])
                cases[field] = EvidenceCase(slide_id, field, strongest, tiles, span_px, lesions[field])
    return list(cases.values())


def tiles_meeting(polygons: Sequence[Floats], corners: Floats, span_px: float) -> NDArray[np.bool_]:
    """Return which squares (top-left `corners` float64[N, 2], side `span_px`) meet a polygon; bool[N]."""
    met = np.zeros(len(corners), dtype=np.bool_)
    for polygon in polygons:
        met |= _meets(polygon, corners, span_px)
    return met


def _lesions(truth: Mapping[str, Any]) -> dict[str, tuple[Floats, ...]]:
    found: dict[str, list[Floats]] = {}
    for lesion in truth["lesions"]:
        polygon = np.asarray(lesion["polygon"], dtype=np.float64).reshape(-1, 2)
        if len(polygon):
            found.setdefault(str(lesion["field"]), []).append(polygon)
    return {field: tuple(polygons) for field, polygons in found.items()}


def _strongest(sentence: Mapping[str, Any]) -> Floats:
    ranked = sorted(sentence["evidence"], key=lambda tile: -float(tile["weight"]))
    return np.array([[tile["x"], tile["y"]] for tile in ranked], dtype=np.float64)


def _case_rates(case: EvidenceCase) -> tuple[float, float, float, float]:
    hits = tiles_meeting(case.polygons, case.strongest[:TOP], case.span_px)
    lesion = int(tiles_meeting(case.polygons, case.all_tiles, case.span_px).sum())
    return (
        float(hits[0]),
        float(hits.any()),
        _chance(lesion, len(case.all_tiles), 1),
        _chance(lesion, len(case.all_tiles), TOP),
    )


def _chance(hits: int, tiles: int, drawn: int) -> float:
    """Return the probability that `drawn` different tiles out of `tiles` include one of the `hits`."""
    missed = 1.0
    for taken in range(min(drawn, tiles)):
        missed *= max(0, tiles - hits - taken) / (tiles - taken)
    return 1.0 - missed


def _score(
    rates: Floats, mask: NDArray[np.bool_], owner: NDArray[np.int64], bootstrap: int, seed: int
) -> EvidenceScore:
    over_cases = mean(_RATES, rates, np.repeat(mask[:, None], len(_RATES), axis=1))
    over_slides = Statistic(_RATES, lambda weights: over_cases.compute(weights[:, owner]))
    found = estimate([over_slides], int(owner.max()) + 1, resamples=bootstrap, seed=seed)
    return EvidenceScore(int(mask.sum()), *(found[name] for name in _RATES))


def _meets(polygon: Floats, corners: Floats, span_px: float) -> NDArray[np.bool_]:
    """Test each square: it meets the polygon if an edge enters it or it lies entirely inside."""
    low, high = corners[:, None, :], corners[:, None, :] + span_px
    start, end = polygon[None], np.roll(polygon, -1, axis=0)[None]
    return _edges_enter(start, end, low, high).any(axis=1) | _inside(polygon, corners)


def _edges_enter(start: Floats, end: Floats, low: Floats, high: Floats) -> NDArray[np.bool_]:
    """Liang–Barsky: does the segment start→end [1, M, 2] touch the box low…high [N, 1, 2]? bool[N, M]."""
    step = end - start
    flat = step == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        one, two = (low - start) / step, (high - start) / step
    within = (start >= low) & (start <= high)
    enter = np.where(flat, np.where(within, 0.0, np.inf), np.minimum(one, two)).max(axis=2)
    leave = np.where(flat, np.where(within, 1.0, -np.inf), np.maximum(one, two)).min(axis=2)
    touched: NDArray[np.bool_] = np.maximum(enter, 0.0) <= np.minimum(leave, 1.0)
    return touched


def _inside(polygon: Floats, points: Floats) -> NDArray[np.bool_]:
    """Apply the even–odd rule: which `points` float64[N, 2] lie inside `polygon` float64[M, 2]; bool[N]."""
    x, y = points[:, 0, None], points[:, 1, None]
    x1, y1 = polygon.T
    x2, y2 = np.roll(polygon, -1, axis=0).T
    spans = (y1 > y) != (y2 > y)
    with np.errstate(invalid="ignore", divide="ignore"):
        crossing = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
    inside: NDArray[np.bool_] = (spans & (x < crossing)).sum(axis=1) % 2 == 1
    return inside
