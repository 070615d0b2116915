"""Reading the directories of a TIFF without any library: whether it is cut, what pixels are in it."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray


class _Layout(NamedTuple):
    """Where the first link is, how counts and links are packed, and how long a directory's entry is."""

    order: str
    first_link: int
    count_as: struct.Struct
    link_as: struct.Struct
    entry_bytes: int


class Entry(NamedTuple):
    """A tag: type and count of values as written, `first` number (0 of other types), where others stand."""

    kind: int
    length: int
    first: int
    order: str
    place: int | None

    def numbers(self, file: BinaryIO) -> NDArray[np.integer]:
        """Read all of its numbers that the file has."""
        dtype = np.dtype(f"{self.order}u{struct.calcsize('=' + WHOLE_NUMBERS[self.kind])}")
        if self.place is None:
            return np.array([self.first], dtype)
        file.seek(self.place)
        data = file.read(self.length * dtype.itemsize)
        return np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)


_CODES = {42: (4, "H", "I", 12), 43: (8, "Q", "Q", 20)}  # TIFF 6.0, BigTIFF
WHOLE_NUMBERS = {3: "H", 4: "I", 16: "Q"}  # SHORT, LONG, LONG8
_MOST_DIRECTORIES = 64
_MOST_ENTRIES = 4096

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

Tags = dict[int, int]


def is_truncated_tiff(path: Path) -> bool:
    """Whether `path` starts as a TIFF whose chain of directories runs past its end, or in a circle."""
    with path.open("rb") as file:
        head = file.read(16)
        layout = _layout(head)
        if layout is None:
            return False
        size = path.stat().st_size
        link: int | None = layout.link_as.unpack_from(head, layout.first_link)[0]
        seen = set[int]()
        while link and len(seen) < _MOST_DIRECTORIES:
            if link in seen:
                return True
            seen.add(link)
            link = _next_link(file, link, layout, size)
    return link is None


def directories(path: Path, most: int) -> list[Tags]:
    """Return the first `most` directories of a TIFF: the first number of each tag that holds whole numbers.

    [] for a file that is no TIFF; directories past the end of the file are left out. Raises OSError.
    """
    with path.open("rb") as file:
        head = file.read(16)
        layout = _layout(head)
        if layout is None:
            return []
        size = path.stat().st_size
        link: int | None = layout.link_as.unpack_from(head, layout.first_link)[0]
        found: list[Tags] = []
        while link and len(found) < most:
            place, link = link, _next_link(file, link, layout, size)
            if link is not None:
                found.append(_tags(file, place, layout))
    return found


def walk(file: BinaryIO) -> Iterator[dict[int, Entry] | None]:
    """Yield the tags of each directory of a TIFF; None, and no more, at one of too many tags.

    Ends at what lies past the end of the file, or runs in a circle.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(16)
    layout = _layout(head)
    link: int | None = layout.link_as.unpack_from(head, layout.first_link)[0] if layout else None
    seen = set[int]()
    while layout and link and link not in seen and link + layout.count_as.size <= size:
        seen.add(link)
        file.seek(link)
        (count,) = layout.count_as.unpack(file.read(layout.count_as.size))
        if count > _MOST_ENTRIES:
            yield None
            return
        yield _entries(file, link, layout)
        link = _next_link(file, link, layout, size)


def is_big_endian(path: Path) -> bool:
    """Whether `path` starts as a TIFF whose numbers have their highest byte first."""
    with path.open("rb") as file:
        layout = _layout(file.read(16))
    return layout is not None and layout.order == ">"


def _layout(head: bytes) -> _Layout | None:
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 16:
        return None
    codes = _CODES.get(struct.unpack(f"{order}H", head[2:4])[0])
    if codes is None:
        return None
    first_link, count, link, entry_bytes = codes
    return _Layout(order, first_link, struct.Struct(order + count), struct.Struct(order + link), entry_bytes)


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


def _tags(file: BinaryIO, place: int, layout: _Layout) -> Tags:
    page = _entries(file, place, layout)
    return {tag: entry.first for tag, entry in page.items() if entry.kind in WHOLE_NUMBERS and entry.length}


def _entries(file: BinaryIO, place: int, layout: _Layout) -> dict[int, Entry]:
    file.seek(place)
    (count,) = layout.count_as.unpack(file.read(layout.count_as.size))
    data = file.read(min(count, _MOST_ENTRIES) * layout.entry_bytes)
    page: dict[int, Entry] = {}
    for start in range(0, len(data) - layout.entry_bytes + 1, layout.entry_bytes):
        tag, kind = struct.unpack_from(f"{layout.order}HH", data, start)
        (values,) = layout.link_as.unpack_from(data, start + 4)
        field = data[start + 4 + layout.link_as.size :][: layout.link_as.size]
        page[tag] = _entry(file, layout, kind, values, field)
    return page


def _entry(file: BinaryIO, layout: _Layout, kind: int, values: int, field: bytes) -> Entry:
    """Take a tag's first number, and what it points to, if it does."""
    if kind not in WHOLE_NUMBERS:
        return Entry(kind, values, 0, layout.order, None)
    number = struct.Struct(layout.order + WHOLE_NUMBERS[kind])
    place = None
    if values * number.size > len(field):  # they stand where the field points to
        place = min(layout.link_as.unpack(field)[0], file.seek(0, os.SEEK_END))
        file.seek(place)
        field = file.read(number.size)
    first = int(number.unpack_from(field)[0]) if len(field) >= number.size else 0
    return Entry(kind, values, first, layout.order, place)
