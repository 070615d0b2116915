"""The pixels a person needs beside a draft: a thumbnail to find one's way, and the evidence tiles."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from histgen_lib.bags import Bag
from histgen_lib.errors import InvalidInputError
from histgen_lib.reports.pictures import THUMBNAIL_PX, Pictures, thumbnail_webp
from histgen_lib.reports.record import DraftReport
from histgen_lib.slides import Slide

EVIDENCE_PX = 256
_MOST_PIXELS = 64_000_000  # a level larger than this is not read whole for a thumbnail

Place = tuple[int, int]


def make_thumbnail(slide: Slide) -> bytes:
    """Make a WebP of the whole of an open slide."""
    return thumbnail_webp(sharp_overview(slide))


def evidence_places(draft: DraftReport, slide_id: str | None = None) -> set[Place]:
    """Find the (x, y) of all tiles shown as evidence, or of those on one slide of a case."""
    tiles = [tile for sentence in draft.sentences for tile in sentence.shown_evidence]
    return {(tile.x, tile.y) for tile in tiles if tile.slide_id == slide_id}


def read_evidence(slide: Slide, places: Collection[Place], span_px: float) -> dict[Place, NDArray[np.uint8]]:
    """Read evidence tiles of an open slide: uint8[EVIDENCE_PX, EVIDENCE_PX, 3] by place."""
    return {p: slide.read_scaled(*p, span_px=span_px, out_px=EVIDENCE_PX) for p in sorted(places)}


def pictures_of(
    bag: Bag,
    weights: NDArray[np.float32],
    *,
    thumbnail: bytes | None = None,
    tiles: dict[Place, NDArray[np.uint8]] | None = None,
) -> Pictures:
    """Put together what the page shows of one slide; without pixels there are only the tiles' places."""
    return Pictures(thumbnail=thumbnail, xy=bag.xy, span_px=bag.span_px, weights=weights, tiles=tiles or {})


def sharp_overview(slide: Slide) -> NDArray[np.uint8]:
    """Read the smallest level that is sharp at THUMBNAIL_PX; the overview if it is huge or damaged."""
    sharp = [i for i, level in enumerate(slide.levels) if max(level.size) >= THUMBNAIL_PX]
    level = max(sharp, default=0)
    width, height = slide.levels[level].size
    if width * height > _MOST_PIXELS:
        return slide.thumbnail(THUMBNAIL_PX)
    try:
        return slide.read_region(0, 0, level, width, height)
    except InvalidInputError:  # damage there: the overview goes round it
        return slide.thumbnail(THUMBNAIL_PX)
