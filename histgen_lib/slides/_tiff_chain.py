"""Telling a truncated TIFF from a file of another kind, so that the cure named is the right one."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple


class _Layout(NamedTuple):
    """Where the first link is, how counts and links are packed, and how long a directory's entry is."""

    first_link: int
    count_as: struct.Struct
    link_as: struct.Struct
    entry_bytes: int


_CODES = {42: (4, "H", "I", 12), 43: (8, "Q", "Q", 20)}  # TIFF 6.0, BigTIFF
_MOST_DIRECTORIES = 64


def is_truncated_tiff(path: Path) -> bool:
    """Whether `path` starts as a TIFF or BigTIFF whose chain of directories runs past the end of the file."""
    with path.open("rb") as file:
        head = file.read(16)
        layout = _layout(head)
        if layout is None:
            return False
        size = path.stat().st_size
        link: int | None = layout.link_as.unpack_from(head, layout.first_link)[0]
        for _ in range(_MOST_DIRECTORIES):
            if not link:
                break
            link = _next_link(file, link, layout, size)
    return link is None


def _layout(head: bytes) -> _Layout | None:
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 16:
        return None
    codes = _CODES.get(struct.unpack(f"{order}H", head[2:4])[0])
    if codes is None:
        return None
    first_link, count, link, entry_bytes = codes
    return _Layout(first_link, struct.Struct(order + count), struct.Struct(order + link), entry_bytes)


def _next_link(file: BinaryIO, place: int, layout: _Layout, size: int) -> int | None:
    """Return where the directory after the one at `place` begins (0: none does), or None past the end."""
    if place + layout.count_as.size > size:
        return None
    file.seek(place)
    (count,) = layout.count_as.unpack(file.read(layout.count_as.size))
    after = place + layout.count_as.size + count * layout.entry_bytes
    if after + layout.link_as.size > size:
        return None
    file.seek(after)
    return int(layout.link_as.unpack(file.read(layout.link_as.size))[0])
