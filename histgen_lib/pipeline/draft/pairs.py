"""The pictures of a draft's similar cases: regions of its slide, and of the others' stored thumbnails."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from histgen_lib.catalogue.cited import cited_slide
from histgen_lib.pipeline.draft.kin import owner_of
from histgen_lib.reports.pictures import (
    PairNumber,
    PairPictures,
    Pictures,
    Square,
    crop,
    pair_squares,
    read_square,
)
from histgen_lib.reports.record import DraftReport, SimilarCase, SimilarPair
from histgen_lib.slides import Slide
from histgen_lib.storage import ObjectStore


def read_pairs(
    slide: Slide,
    shown: Pictures,
    draft: DraftReport,
    numbers: Mapping[PairNumber, SimilarPair],
    store: ObjectStore | None,
) -> dict[PairNumber, PairPictures]:
    """Read the pictures of pairs whose region here lies on this open slide.

    Another slide is never opened: what the store keeps of its picture is enlarged. Without a store, or if its
    report is gone, there is no picture of it. Raises what the store raises.
    """
    pictures = {}
    for number, pair in numbers.items():
        assert draft.similar is not None
        case = draft.similar.cases[number[0]]
        here, there = pair_squares(pair, slide.mpp, case.mpp)
        pictures[number] = PairPictures(
            read_square(slide, here, shown.thumbnail), _there(store, case, there) if store else None
        )
    return pictures


def _there(store: ObjectStore, case: SimilarCase, square: Square) -> NDArray[np.uint8] | None:
    cited = cited_slide(store, owner_of(case), case.report_digest, case.slide_id)
    thumbnail = store.find(cited.thumbnail_key) if cited else None
    if cited is None or thumbnail is None or cited.slide.size_px is None:
        return None
    return crop(thumbnail, cited.slide.size_px, square)
