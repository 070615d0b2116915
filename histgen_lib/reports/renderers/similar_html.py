"""The part of draft.html that shows the similar signed cases, each region of the slide beside its like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histgen_lib.reports.pictures import (
    PAIR_PX,
    PairNumber,
    PairPictures,
    Pictures,
    Square,
    pair_squares,
    tile_uri,
)
from histgen_lib.reports.record import DraftReport, Region, SimilarCase, SimilarPair


@dataclass(frozen=True)
class SideView:
    """One region of a pair. `picture`: a data URI, "" without one; `box`: the region in it, in percent.

    `place`: where it lies, in level-0 px and, if the scale is known, in mm.
    """

    picture: str
    alt: str
    place: tuple[str, ...]
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class PairView:
    """Two regions side by side. `field`: how wide the pictures are, "" if that is not known."""

    similarity: str
    here: SideView
    there: SideView
    field: str


@dataclass(frozen=True)
class CaseView:
    """One similar case. `title`: its diagnosis, or else its report's first line; `of`: what it is of."""

    number: int
    title: str
    of: str
    score: str
    width_percent: float
    text: str
    pairs: tuple[PairView, ...]


def case_views(draft: DraftReport, pictures: Sequence[Pictures]) -> list[CaseView]:
    """Return what the page shows of each similar case. `pictures`: of the draft's slides."""
    shown = {number: pair for of_slide in pictures for number, pair in of_slide.pairs.items()}
    cases = draft.similar.cases if draft.similar else ()
    return [_case_view(draft, case, number, shown) for number, case in enumerate(cases)]


def _case_view(
    draft: DraftReport, case: SimilarCase, number: int, shown: dict[PairNumber, PairPictures]
) -> CaseView:
    pairs = [_pair_view(draft, case, pair, shown.get((number, i))) for i, pair in enumerate(case.pairs)]
    slide = f"slide {case.slide_id}"
    named = f"case {case.case_id}, {slide}" if case.case_id else slide
    return CaseView(
        number=number + 1,
        title=case.diagnosis or case.text.strip().partition("\n")[0],
        of=f"{case.organ}, {named}" if case.organ else named[:1].upper() + named[1:],
        score=f"{case.score:.2f}",
        width_percent=round(100 * min(max(case.score, 0.0), 1.0), 1),
        text=case.text,
        pairs=tuple(pairs),
    )


def _pair_view(
    draft: DraftReport, case: SimilarCase, pair: SimilarPair, shown: PairPictures | None
) -> PairView:
    mpp = _mpp(draft, pair.here_slide_id)
    here, there = pair_squares(pair, mpp, case.mpp)
    on = f" on slide {pair.here_slide_id}" if pair.here_slide_id else ""
    pixels = (shown.here, shown.there) if shown else (None, None)
    return PairView(
        similarity=f"{pair.similarity:.2f}",
        here=_side(pixels[0], pair.here, here, mpp, f"Region of this draft{on}"),
        there=_side(
            shown.there if shown else None, pair.there, there, case.mpp, f"Region of slide {case.slide_id}"
        ),
        field=_length(here.side * mpp) if mpp and case.mpp else "",
    )


def _mpp(draft: DraftReport, slide_id: str | None) -> float | None:
    slides = {part.slide_id: part.slide for part in draft.slides}
    return slides.get(slide_id or "", draft.provenance.slide).mpp


def _side(
    pixels: NDArray[np.uint8] | None, region: Region, square: Square, mpp: float | None, name: str
) -> SideView:
    place: tuple[str, ...] = (f"x {region.x}, y {region.y} px",)
    if mpp is not None:
        place += (f"{region.x * mpp / 1000:.2f} mm, {region.y * mpp / 1000:.2f} mm",)
    picture = "" if pixels is None else tile_uri(pixels, max_px=PAIR_PX)
    return SideView(picture, f"{name}, at {' = '.join(place)}", place, _box(region, square))


def _box(region: Region, square: Square) -> tuple[float, float, float, float]:
    """Return left, top, width and height in percent of the picture, inside it, so that all edges show."""
    sides = (region.x - square.x, region.width), (region.y - square.y, region.height)
    ends = [(max(1.0, 100 * a / square.side), min(99.0, 100 * (a + b) / square.side)) for a, b in sides]
    (left, right), (top, bottom) = ends
    return round(left, 2), round(top, 2), round(right - left, 2), round(bottom - top, 2)


def _length(micrometres: float) -> str:
    return f"{micrometres / 1000:.1f} mm" if micrometres >= 1000 else f"{micrometres:.0f} µm"
