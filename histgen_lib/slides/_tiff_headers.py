"""What the directories of a TIFF declare: pages, tiles, and words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import BinaryIO

from histgen_lib.slides._excess import (
    MOST_SIDE_PX,
    MOST_TEXT_BYTES,
    MOST_TEXTS_BYTES,
    MOST_TILE_BYTES,
    MOST_TILES,
    first_excess,
    jpeg_excess,
)
from histgen_lib.slides._tiff_chain import NDPI_FLAG, VALUE_BYTES, WHOLE_NUMBERS, Entry, walk

MOST_PAGES = 4096

_WIDTH, _HEIGHT, _BITS, _STRIPS, _SAMPLES = 256, 257, 258, 273, 277
_TILE_WIDTH, _TILE_HEIGHT, _COUNTS = 322, 323, 325
_TILE_TAGS = frozenset({_STRIPS, 279, 324, _COUNTS, 65426, 65432})
"""Places and sizes of strips and tiles; places of Hamamatsu's restart markers."""

Page = Mapping[int, Entry]


def excess_of_tiff(file: BinaryIO) -> str | None:
    """Say what of a TIFF is more than any slide has; None if nothing is. Raises OSError."""
    tiles = texts = 0
    for number, page in enumerate(walk(file)):
        if page is None or number >= MOST_PAGES:
            return "so many pages, or tags of a page"
        lengths = {tag: entry.length * VALUE_BYTES.get(entry.kind, 1) for tag, entry in page.items()}
        words = [length for tag, length in lengths.items() if tag not in _TILE_TAGS]
        tiles += max((page[tag].length for tag in _TILE_TAGS & page.keys()), default=0)
        texts += sum(words)
        found = first_excess(
            (tiles > MOST_TILES, "so many tiles"),
            (texts > MOST_TEXTS_BYTES or max(words, default=0) > MOST_TEXT_BYTES, "so long a text"),
        ) or _of_page(file, page)
        if found is not None:
            return found
    return None


def _of_page(file: BinaryIO, page: Page) -> str | None:
    width, height = (_value(page, tag) for tag in (_WIDTH, _HEIGHT))
    if max(width, height) > MOST_SIDE_PX:
        return "a picture of that size"
    if NDPI_FLAG in page:
        return jpeg_excess(file, _value(page, _STRIPS), (width, height))
    if _TILE_WIDTH not in page:
        return None
    across, down = (max(1, _value(page, tag)) for tag in (_TILE_WIDTH, _TILE_HEIGHT))
    sample_bytes = max(1, _value(page, _BITS) // 8)
    decoded = across * down * sample_bytes * max(4, _value(page, _SAMPLES))  # RGBA at least
    return first_excess(
        (-(-width // across) * -(-height // down) > MOST_TILES, "so many tiles"),
        (decoded > MOST_TILE_BYTES or _largest_tile(file, page) > MOST_TILE_BYTES, "so large a tile"),
    )


def _largest_tile(file: BinaryIO, page: Page) -> int:
    """Return how many bytes the largest tile takes in the file: at most what the file has."""
    counts = page.get(_COUNTS)
    if counts is None or counts.kind not in WHOLE_NUMBERS:
        return 0
    return min(file.seek(0, os.SEEK_END), int(counts.numbers(file).max(initial=0)))


def _value(page: Page, tag: int) -> int:
    return page[tag].first if tag in page else 0
