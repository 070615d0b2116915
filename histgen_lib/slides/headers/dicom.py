"""What a DICOM file declares (PS3.5): frames, their size, text, and nested sequences."""

from __future__ import annotations

import mmap
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from histgen_lib.slides.limits import (
    MOST_SIDE_PX,
    MOST_STORED_TILES,
    MOST_TEXT_BYTES,
    MOST_TILE_BYTES,
    first_exceeded,
)

MOST_DEPTH = 32
"""Of nested sequences; whole-slide images have six."""
MOST_ELEMENTS = 2_000_000
"""That are read, which takes seconds: a slide of 100,000 tiles that states the place of each has as many."""

_START, _UNDEFINED = 132, 0xFFFFFFFF
LONG_FORMS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
"""Kinds of values whose length takes four bytes (PS3.5, 7.1.2)."""
_SQ = b"SQ"
_ITEM, _PIXELS = b"\xfe\xff\x00\xe0", b"\xe0\x7f\x10\x00"
_ENDS = (b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0")
_OFFSETS = (b"\xe0\x7f\x01\x00", b"\xe0\x7f\x02\x00")
"""Extended offset table and lengths: eight bytes a frame, which are not text."""
_SAMPLES, _FRAMES = b"\x28\x00\x02\x00", b"\x28\x00\x08\x00"
_ROWS, _COLUMNS = b"\x28\x00\x10\x00", b"\x28\x00\x11\x00"
_WIDTH, _HEIGHT = b"\x48\x00\x06\x00", b"\x48\x00\x07\x00"
_KEPT = frozenset((_SAMPLES, _FRAMES, _ROWS, _COLUMNS, _WIDTH, _HEIGHT))


class _Declared(NamedTuple):
    """The elements in `_KEPT`, the deepest sequence, the longest value before the pixels."""

    values: dict[bytes, bytes]
    depth: int
    longest: int


def excess_of_dicom(path: Path) -> str | None:
    """Return in words what a DICOM file has more of than any slide; None if nothing. Raises OSError."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        declared = _declared(data)
    value = {tag: int.from_bytes(found, "little") for tag, found in declared.values.items()}
    rows, columns, samples = (value.get(tag, 1) for tag in (_ROWS, _COLUMNS, _SAMPLES))
    return first_exceeded(
        (declared.depth > MOST_DEPTH, "more nested sequences"),
        (declared.longest > MOST_TEXT_BYTES, "a longer text"),
        (_count(declared.values.get(_FRAMES, b"1")) > MOST_STORED_TILES, "more frames"),
        (rows * columns * max(4, samples) > MOST_TILE_BYTES, "a larger frame"),
        (max(value.get(_WIDTH, 0), value.get(_HEIGHT, 0)) > MOST_SIDE_PX, "a larger picture"),
    )


def _count(text: bytes) -> int:
    """Read an Integer String; 0 for anything else, which the reader will refuse."""
    with suppress(ValueError):
        return int(text[:12].strip(b"\0 ") or b"0")
    return 0


def _declared(data: mmap.mmap) -> _Declared:
    """Walk through what precedes the pixels, in explicit VR, with a stack instead of recursion."""
    values: dict[bytes, bytes] = {}
    ends: list[int] = []
    place, deepest, longest = _START, 0, 0
    for _ in range(MOST_ELEMENTS):
        while ends and place >= ends[-1]:
            ends.pop()
        tag = data[place : place + 4]
        if len(data) - place < 8 or (tag == _PIXELS and not ends):
            break
        if tag in _ENDS:
            del ends[-1:]
            place += 8
            continue
        start, length, opens = _head(data, place, tag)
        if opens:
            ends.append(len(data) if length == _UNDEFINED else start + length)
            deepest, place = max(deepest, len(ends)), start
        elif length == _UNDEFINED:
            break
        else:
            if tag in _KEPT and not ends:
                values.setdefault(tag, data[start : start + min(length, 16)])
            longest = max(longest, length if tag not in _OFFSETS else 0)
            place = start + length
        if deepest > 2 * MOST_DEPTH + 1:  # each contains an item
            break
    return _Declared(values, deepest // 2, longest)


def _head(data: mmap.mmap, place: int, tag: bytes) -> tuple[int, int, bool]:
    """Return where an element's value starts, its length, and whether it contains elements."""
    if tag == _ITEM:
        return place + 8, struct.unpack_from("<I", data, place + 4)[0], True
    kind = data[place + 4 : place + 6]
    if kind not in LONG_FORMS:
        return place + 8, struct.unpack_from("<H", data, place + 6)[0], False
    if len(data) - place < 12:
        return place + 8, 0, False
    length = struct.unpack_from("<I", data, place + 8)[0]
    return place + 12, length, kind == _SQ or (kind == b"UN" and length == _UNDEFINED)
