"""The segments of a JPEG before its data (ISO 10918-1, B.1.1)."""

from __future__ import annotations

from collections.abc import Iterator

FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers that begin a frame: its precision, height and width follow."""
SCAN, RESTARTS = 0xDA, 0xDD
START = b"\xff\xd8"
_BARE = frozenset((0x01, *range(0xD0, 0xD8)))
"""Markers without a segment."""


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and body of each segment, that of the first scan last; nothing of what is no JPEG.

    A body that `data` does not have whole is cut. Before a marker there may be any number of bytes 0xFF.
    """
    place = len(START) if data.startswith(START) else len(data)
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF or marker in _BARE:
            place += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        yield marker, data[place + 4 : place + 2 + length]
        if marker == SCAN:
            return
        place += 2 + max(2, length)
