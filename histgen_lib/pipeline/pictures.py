"""The pixels a person needs beside a draft: a thumbnail to find one's way, and the evidence tiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histgen_lib.bags import Bag
from histgen_lib.pipeline.draft import Drafted
from histgen_lib.reports.pictures import Pictures
from histgen_lib.slides import Slide

THUMBNAIL_PX = 1400
EVIDENCE_PX = 256
_MOST_PIXELS = 64_000_000  # a level larger than this is not read whole for a thumbnail


def gather_pictures(drafted: Drafted, bag: Bag, slide: Slide | None) -> Pictures:
    """Read what draft.html shows of an open slide; without a slide there are only the tiles' places."""
    tiles: dict[tuple[int, int], NDArray[np.uint8]] = {}
    if slide is not None:
        places = {(t.x, t.y) for sentence in drafted.draft.sentences for t in sentence.evidence}
        tiles = {
            place: slide.read_scaled(*place, span_px=bag.span_px, out_px=EVIDENCE_PX)
            for place in sorted(places)
        }
    return Pictures(
        thumbnail=None if slide is None else sharp_thumbnail(slide),
        xy=bag.xy,
        span_px=bag.span_px,
        weights=drafted.weights,
        tiles=tiles,
    )


def sharp_thumbnail(slide: Slide) -> NDArray[np.uint8]:
    """Read the smallest level that is sharp at THUMBNAIL_PX, whole; the slide's overview if that is huge."""
    sharp = [i for i, level in enumerate(slide.levels) if max(level.size) >= THUMBNAIL_PX]
    level = max(sharp, default=0)
    width, height = slide.levels[level].size
    if width * height > _MOST_PIXELS:
        return slide.thumbnail(THUMBNAIL_PX)
    return slide.read_region(0, 0, level, width, height)
