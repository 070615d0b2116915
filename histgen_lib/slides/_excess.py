"""How much the headers of slides may declare; and what a JPEG declares that is a whole level."""

from __future__ import annotations

import os
from typing import BinaryIO

from histgen_lib.slides._jpeg_segments import FRAMES, RESTARTS, START, segments

MOST_SIDE_PX = 4_000_000
"""Half a metre at 0.125 µm per pixel."""
MOST_TILES = 4_000_000
"""Compressed tiles of all levels: 400,000 × 400,000 px in tiles of 256 px have 3.3 million."""
MOST_TILE_BYTES = 256 << 20
"""Of one tile, as it is stored, and decoded."""
MOST_WHOLE_BYTES = 1 << 30
"""Of a picture that can only be decoded as a whole, in RGBA."""
MOST_TEXT_BYTES, MOST_TEXTS_BYTES = 16 << 20, 64 << 20
"""Of one tag's words, and of all together. XML takes thirty times as much once it is taken apart."""

_HEAD_BYTES = 64 << 10
_MCU_PX = 8
"""Side of the smallest unit between which a JPEG can have restart markers."""


def first_excess(*judged: tuple[bool, str]) -> str | None:
    """Return the words of the first that holds; None if none does."""
    return next((what for holds, what in judged if holds), None)


def jpeg_excess(file: BinaryIO, place: int, size: tuple[int, int] | None = None) -> str | None:
    """Judge a JPEG of a whole level that begins at `place`, as Hamamatsu's scanners write them.

    Its reader takes 16 bytes for each part between two restart markers; without any it decodes it whole.
    `size`: (width, height) if not as the JPEG itself says, which can say 65,500 at most. What begins as no
    JPEG is decoded by no reader.
    """
    file.seek(min(place, file.seek(0, os.SEEK_END)))
    data = file.read(_HEAD_BYTES)
    if not data.startswith(START):
        return None
    width = height = restart = 0
    for marker, body in segments(data):
        if marker == RESTARTS:
            restart = int.from_bytes(body[:2], "big")
        elif marker in FRAMES:
            height, width = (int.from_bytes(body[start : start + 2], "big") for start in (1, 3))
    width, height = size or (width, height)
    units = -(-width // _MCU_PX) * -(-height // _MCU_PX)
    return first_excess(
        (restart > 0 and units // restart > 4 * MOST_TILES, "so many parts of a picture"),
        (restart == 0 and width * height * 4 > MOST_WHOLE_BYTES, "so large a picture in one part"),
    )
