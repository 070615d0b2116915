"""The segments of a JPEG before its data (ISO 10918-1, B.1.1), and what a JPEG of a whole level declares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from histgen_lib.slides.limits import MOST_STORED_TILES, MOST_WHOLE_BYTES, first_exceeded

FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers that begin a frame: its precision, height and width follow."""
_SCAN, _RESTARTS = 0xDA, 0xDD
_START = b"\xff\xd8"
_BARE = frozenset((0x01, *range(0xD0, 0xD8)))
"""Markers without a segment."""
_HEAD_BYTES = 64 << 10
_MCU_PX = 8
"""Side of the smallest unit between which a JPEG can have restart markers."""


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and body of each segment, ending with that of the first scan; nothing if it is no JPEG.

    A body that `data` does not hold completely is cut. Any number of 0xFF bytes may precede a marker.
    """
    place = len(_START) if data.startswith(_START) else len(data)
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF or marker in _BARE:
            place += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        yield marker, data[place + 4 : place + 2 + length]
        if marker == _SCAN:
            return
        place += 2 + max(2, length)


def excess_of_jpeg(file: BinaryIO, place: int, size: tuple[int, int] | None = None) -> str | None:
    """Judge a JPEG of a whole level that begins at `place`, as Hamamatsu's scanners write them.

    Its reader takes 16 bytes for each part between two restart markers; without any it decodes the whole.
    `size`: (width, height) if not as in the JPEG itself, which can hold 65,500 at most. No reader decodes
    data that does not begin as a JPEG.
    """
    file.seek(min(place, file.seek(0, os.SEEK_END)))
    data = file.read(_HEAD_BYTES)
    if not data.startswith(_START):
        return None
    width = height = restart = 0
    for marker, body in segments(data):
        if marker == _RESTARTS:
            restart = int.from_bytes(body[:2], "big")
        elif marker in FRAMES:
            height, width = (int.from_bytes(body[start : start + 2], "big") for start in (1, 3))
    width, height = size or (width, height)
    units = -(-width // _MCU_PX) * -(-height // _MCU_PX)
    return first_exceeded(
        (restart > 0 and units // restart > 4 * MOST_STORED_TILES, "more parts of a picture"),
        (restart == 0 and width * height * 4 > MOST_WHOLE_BYTES, "a larger picture in one part"),
    )
