"""The directories of a TIFF, read without any library: whether it is cut off, and what it declares.

TIFF 6.0, BigTIFF, and NDPI: a classic TIFF whose links have 64 bits.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from histgen_lib.slides.headers.jpeg import excess_of_jpeg
from histgen_lib.slides.limits import (
    MOST_SIDE_PX,
    MOST_STORED_TILES,
    MOST_TEXT_BYTES,
    MOST_TEXTS_BYTES,
    MOST_TILE_BYTES,
    first_exceeded,
)


class _Layout(NamedTuple):
    """Where the first directory is, how counts, values and links are packed, how long an entry is.

    NDPI is a classic TIFF whose links have 64 bits. Each link is followed by the high halves of the
    directory's values, 4 bytes for each entry.
    """

    order: str
    first: int
    count_as: struct.Struct
    value_as: struct.Struct
    next_as: struct.Struct
    entry_bytes: int

    @property
    def is_ndpi(self) -> bool:
        """Whether links are longer than values."""
        return self.next_as.size > self.value_as.size


class _Written(NamedTuple):
    """An entry as written, with the high half of its value (0 except in NDPI)."""

    tag: int
    kind: int
    values: int
    field: bytes
    high: int


class Entry(NamedTuple):
    """A tag: type and count of its values, its `first` number (0 for other types), `place` of the others."""

    kind: int
    length: int
    first: int
    order: str
    place: int | None

    def numbers(self, file: BinaryIO) -> NDArray[np.integer]:
        """Read all its numbers, as far as the file has them."""
        dtype = np.dtype(f"{self.order}u{struct.calcsize('=' + _WHOLE_NUMBERS[self.kind])}")
        if self.place is None:
            return np.array([self.first], dtype)
        file.seek(self.place)
        data = file.read(self.length * dtype.itemsize)
        return np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)


_CODES = {42: (4, "H", "I", 12), 43: (8, "Q", "Q", 20)}  # TIFF 6.0, BigTIFF
_WHOLE_NUMBERS = {3: "H", 4: "I", 16: "Q"}  # SHORT, LONG, LONG8
_VALUE_BYTES = dict.fromkeys((1, 2, 6, 7), 1) | dict.fromkeys((3, 8), 2) | dict.fromkeys((4, 9, 11, 13), 4)
_VALUE_BYTES |= dict.fromkeys((5, 10, 12, 16, 17, 18), 8)
"""Bytes of a value, by type (TIFF 6.0, section 2; BigTIFF)."""
_ASCII, _LONG, _SLONG, _LONG8 = 2, 4, 9, 16
_NDPI_FLAG = 65420
"""The tag that Hamamatsu's scanners put into each directory."""
_MOST_DIRECTORIES = 64
_MOST_ENTRIES = 4096

_MOST_PAGES = 4096

_WIDTH, _HEIGHT, _BITS, _STRIPS, _SAMPLES = 256, 257, 258, 273, 277
_TILE_WIDTH, _TILE_HEIGHT, _COUNTS = 322, 323, 325
_TILE_TAGS = frozenset({_STRIPS, 279, 324, _COUNTS, 65426, 65432})
"""Offsets and sizes of strips and tiles; offsets of Hamamatsu's restart markers."""

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

Tags = dict[int, int]
Page = Mapping[int, Entry]


def is_truncated_tiff(path: Path) -> bool:
    """Return whether `path` starts as a TIFF whose directories run past the file's end, or in a circle."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        layout = _layout(file, size)
        if layout is None:
            return False
        link: int | None = layout.first
        seen = set[int]()
        while link and len(seen) < _MOST_DIRECTORIES:
            if link in seen:
                return True
            seen.add(link)
            link = _next_link(file, link, layout, size)
    return link is None


def directories(path: Path, most: int) -> list[Tags]:
    """Return the first `most` directories of a TIFF: the first number of each tag that holds whole numbers.

    [] for a file that is not a TIFF; directories past the end of the file are left out. Raises OSError.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        layout = _layout(file, size)
        if layout is None:
            return []
        link: int | None = layout.first
        found: list[Tags] = []
        while link and len(found) < most:
            place, link = link, _next_link(file, link, layout, size)
            if link is not None:
                found.append(_tags(file, place, layout))
    return found


def walk(file: BinaryIO) -> Iterator[dict[int, Entry] | None]:
    """Yield the tags of each directory of a TIFF; None for one with too many tags, and then stop.

    Stops at a directory past the end of the file, and where directories run in a circle.
    """
    size = file.seek(0, os.SEEK_END)
    layout = _layout(file, size)
    link: int | None = layout.first if layout else None
    seen = set[int]()
    while layout and link and link not in seen and link + layout.count_as.size <= size:
        seen.add(link)
        if _count(file, link, layout) > _MOST_ENTRIES:
            yield None
            return
        yield _entries(file, link, layout)
        link = _next_link(file, link, layout, size)


def excess_of_tiff(file: BinaryIO) -> str | None:
    """Return in words what a TIFF has more of than any slide; None if nothing. Raises OSError."""
    tiles = texts = 0
    for number, page in enumerate(walk(file)):
        if page is None or number >= _MOST_PAGES:
            return "more pages, or tags of a page,"
        lengths = {tag: entry.length * _VALUE_BYTES.get(entry.kind, 1) for tag, entry in page.items()}
        texts_of_page = [length for tag, length in lengths.items() if tag not in _TILE_TAGS]
        tiles += max((page[tag].length for tag in _TILE_TAGS & page.keys()), default=0)
        texts += sum(texts_of_page)
        found = first_exceeded(
            (tiles > MOST_STORED_TILES, "more tiles"),
            (texts > MOST_TEXTS_BYTES or max(texts_of_page, default=0) > MOST_TEXT_BYTES, "a longer text"),
        ) or _of_page(file, page)
        if found is not None:
            return found
    return None


def is_big_endian(path: Path) -> bool:
    """Return whether `path` starts as a TIFF in big-endian order."""
    with path.open("rb") as file:
        layout = _layout(file, file.seek(0, os.SEEK_END))
    return layout is not None and layout.order == ">"


def _layout(file: BinaryIO, size: int) -> _Layout | None:
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    codes = _CODES.get(struct.unpack(f"{order}H", head[2:4])[0]) if order and len(head) == 16 else None
    if order is None or codes is None:
        return None
    first_link, *kinds, entry_bytes = codes
    count_as, link_as = (struct.Struct(order + kind) for kind in kinds)
    plain = _Layout(order, link_as.unpack_from(head, first_link)[0], count_as, link_as, link_as, entry_bytes)
    long_link = struct.Struct(order + "Q")
    ndpi = plain._replace(first=long_link.unpack_from(head, first_link)[0], next_as=long_link)
    return ndpi if ndpi.is_ndpi and _is_ndpi(file, ndpi, size) else plain


def _is_ndpi(file: BinaryIO, layout: _Layout, size: int) -> bool:
    """Return whether OpenSlide reads it as NDPI: at the 64-bit link there is a directory with the flag."""
    if layout.first == 0 or layout.first + layout.count_as.size > size:
        return False
    count = _count(file, layout.first, layout)
    if _end(layout.first, count, layout) + layout.next_as.size + count * layout.value_as.size > size:
        return False
    entries = list(_written(file, layout.first, layout))
    flags = [entry.values for entry in entries if entry.tag == _NDPI_FLAG]
    return bool(flags) and flags[-1] > 0 and all(map(_is_sound, entries))


def _is_sound(entry: _Written) -> bool:
    """Return whether its type is known, and its high half belongs to an offset or to a long number."""
    value_bytes = _VALUE_BYTES.get(entry.kind)
    if value_bytes is None:
        return False
    is_place = value_bytes * entry.values > len(entry.field)
    return not entry.high or is_place or entry.kind in (_ASCII, _LONG, _SLONG)


def _count(file: BinaryIO, place: int, layout: _Layout) -> int:
    """Return how many entries the directory at `place` claims to have."""
    file.seek(place)
    return int(layout.count_as.unpack(file.read(layout.count_as.size))[0])


def _end(place: int, count: int, layout: _Layout) -> int:
    """Return where a directory's entries end and its link begins."""
    return place + layout.count_as.size + count * layout.entry_bytes


def _next_link(file: BinaryIO, place: int, layout: _Layout, size: int) -> int | None:
    """Return where the next directory begins (0: there is none), or None past the end of the file."""
    if place + layout.count_as.size > size:
        return None
    after = _end(place, _count(file, place, layout), layout)
    if after + layout.next_as.size > size:
        return None
    file.seek(after)
    return int(layout.next_as.unpack(file.read(layout.next_as.size))[0])


def _tags(file: BinaryIO, place: int, layout: _Layout) -> Tags:
    page = _entries(file, place, layout)
    return {tag: entry.first for tag, entry in page.items() if entry.kind in _WHOLE_NUMBERS and entry.length}


def _entries(file: BinaryIO, place: int, layout: _Layout) -> dict[int, Entry]:
    return {written.tag: _entry(file, layout, written) for written in _written(file, place, layout)}


def _written(file: BinaryIO, place: int, layout: _Layout) -> list[_Written]:
    """Read the entries of the directory at `place`, as far as the file has them."""
    count = _count(file, place, layout)
    data = file.read(min(count, _MOST_ENTRIES) * layout.entry_bytes)
    number, width = len(data) // layout.entry_bytes, layout.value_as.size
    highs = _high_halves(file, place, count, layout, number)
    found: list[_Written] = []
    for index, high in enumerate(highs):
        start = index * layout.entry_bytes
        tag, kind = struct.unpack_from(f"{layout.order}HH", data, start)
        (values,) = layout.value_as.unpack_from(data, start + 4)
        found.append(_Written(tag, kind, values, data[start + 4 + width :][:width], high))
    return found


def _high_halves(file: BinaryIO, place: int, count: int, layout: _Layout, number: int) -> list[int]:
    """Read the high halves of the first `number` values of an NDPI's directory; 0 in other TIFFs."""
    data = b""
    if layout.is_ndpi:
        file.seek(_end(place, count, layout) + layout.next_as.size)
        data = file.read(number * layout.value_as.size)
    data = data.ljust(number * layout.value_as.size, b"\0")
    return [half for (half,) in layout.value_as.iter_unpack(data)]


def _entry(file: BinaryIO, layout: _Layout, written: _Written) -> Entry:
    """Return a tag with its first number, read from where the tag points to if its values are elsewhere."""
    _, kind, values, field, high = written
    if kind not in _WHOLE_NUMBERS:
        return Entry(kind, values, 0, layout.order, None)
    number = struct.Struct(layout.order + _WHOLE_NUMBERS[kind])
    if values * number.size > len(field):  # they are where the field points to
        place = min(layout.value_as.unpack(field)[0] | high << 32, file.seek(0, os.SEEK_END))
        file.seek(place)
        field = file.read(number.size)
        first = int(number.unpack_from(field)[0]) if len(field) == number.size else 0
        return Entry(kind, values, first, layout.order, place)
    first = int(number.unpack_from(field)[0])
    if high and kind == _LONG:
        return Entry(_LONG8, values, first | high << 32, layout.order, None)
    return Entry(kind, values, first, layout.order, None)


def _of_page(file: BinaryIO, page: Page) -> str | None:
    width, height = (_value(page, tag) for tag in (_WIDTH, _HEIGHT))
    if max(width, height) > MOST_SIDE_PX:
        return "a larger picture"
    if _NDPI_FLAG in page:
        return excess_of_jpeg(file, _value(page, _STRIPS), (width, height))
    if _TILE_WIDTH not in page:
        return None
    across, down = (max(1, _value(page, tag)) for tag in (_TILE_WIDTH, _TILE_HEIGHT))
    sample_bytes = max(1, _value(page, _BITS) // 8)
    decoded = across * down * sample_bytes * max(4, _value(page, _SAMPLES))  # RGBA at least
    return first_exceeded(
        (-(-width // across) * -(-height // down) > MOST_STORED_TILES, "more tiles"),
        (decoded > MOST_TILE_BYTES or _largest_tile(file, page) > MOST_TILE_BYTES, "a larger tile"),
    )


def _largest_tile(file: BinaryIO, page: Page) -> int:
    """Return how many bytes the largest tile takes in the file, at most the file's size."""
    counts = page.get(_COUNTS)
    if counts is None or counts.kind not in _WHOLE_NUMBERS:
        return 0
    return min(file.seek(0, os.SEEK_END), int(counts.numbers(file).max(initial=0)))


def _value(page: Page, tag: int) -> int:
    return page[tag].first if tag in page else 0
