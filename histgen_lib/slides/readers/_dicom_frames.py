"""The compressed frames of DICOM whole-slide images, located by a little of DICOM (PS3.5, PS3.3 C.8.12)."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from histgen_lib.slides.headers.dicom import LONG_FORMS
from histgen_lib.slides.readers._stored_tiles import (
    Check,
    StoredTiles,
    in_rows,
    is_whole_jpeg,
    is_whole_jpeg_2000,
)
from histgen_lib.slides.settings import Level

_TRANSFER_SYNTAX, _IMAGE_TYPE = 0x00020010, 0x00080008
_ORGANIZATION = 0x00209311
_FRAMES, _ROWS, _COLUMNS = 0x00280008, 0x00280010, 0x00280011
_MATRIX_COLUMNS, _MATRIX_ROWS = 0x00480006, 0x00480007
_POSITION, _COLUMN_AT, _ROW_AT = 0x0048021A, 0x0048021E, 0x0048021F
_PER_FRAME = 0x52009230
_OFFSETS, _PIXELS = 0x7FE00001, 0x7FE00010
_ITEM, _DELIMITERS = 0xFFFEE000, (0xFFFEE00D, 0xFFFEE0DD)
_UNDEFINED = 0xFFFFFFFF
_START = 132

_CHECKS: Mapping[str, Check] = {
    "1.2.840.10008.1.2.4.50": is_whole_jpeg,
    "1.2.840.10008.1.2.4.90": is_whole_jpeg_2000,
    "1.2.840.10008.1.2.4.91": is_whole_jpeg_2000,
}
"""By transfer syntax (PS3.6, table A-1)."""

Bytes = bytes | mmap.mmap


class _Element(NamedTuple):
    """One data element: its value lies at `start`…`stop`; `open`: of undefined length."""

    tag: int
    start: int
    stop: int
    open: bool


def dicom_frames(parts: Sequence[Path], levels: Sequence[Level]) -> Mapping[int, StoredTiles]:
    """Return the frames of each level, by its number, in a series' files, where they can be checked."""
    found: dict[int, StoredTiles] = {}
    for part in parts:
        try:
            size, frames = _instance(part)
        except (OSError, ValueError, IndexError, KeyError, struct.error):
            continue
        for number, level in enumerate(levels):
            if level.size == size:
                found[number] = frames
    return found


def _instance(path: Path) -> tuple[tuple[int, int], StoredTiles]:
    """Return size (width, height) and frames of one file. Raises ValueError or KeyError for other files."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        known = {element.tag: element for element in _elements(data, _START, len(data))}
        syntax = _text(data, known[_TRANSFER_SYNTAX])
        if not {"VOLUME", "THUMBNAIL"} & set(_text(data, known[_IMAGE_TYPE]).split("\\")):
            raise ValueError("a label or an overview")
        tile = _number(data, known[_COLUMNS]), _number(data, known[_ROWS])
        size = _number(data, known[_MATRIX_COLUMNS]), _number(data, known[_MATRIX_ROWS])
        spans = _frames(data, known, int(_text(data, known[_FRAMES])))
        check = _CHECKS[syntax]
        frames = StoredTiles(
            path=path,
            tile_size=tile,
            step=tile,
            offsets=spans[:, 0],
            byte_counts=spans[:, 1] - spans[:, 0],
            cells=_cells(data, known, size, tile, len(spans)),
            is_whole=lambda frame: check(_joined(frame)),
            sure=check is is_whole_jpeg,
        )
    return size, frames


def _cells(
    data: Bytes, known: Mapping[int, _Element], size: tuple[int, int], tile: tuple[int, int], frames: int
) -> NDArray[np.int64]:
    """Return which frame shows in each cell: row by row, or where the frames say that they lie."""
    across, down = (-(-whole // part) for whole, part in zip(size, tile, strict=True))
    full = _ORGANIZATION in known and _text(data, known[_ORGANIZATION]) == "TILED_FULL"
    if full or _PER_FRAME not in known:
        return in_rows(frames, across)[:down]
    cells = np.full((down, across), -1, np.int64)
    for number, frame in enumerate(_items(data, known[_PER_FRAME])):
        (place,) = _items(data, next(one for one in _elements(data, *frame) if one.tag == _POSITION))
        at = {one.tag: one for one in _elements(data, *place)}
        x, y = (_number(data, at[tag]) - 1 for tag in (_COLUMN_AT, _ROW_AT))
        if x % tile[0] or y % tile[1]:
            raise ValueError("frames that overlap")
        cells[y // tile[1], x // tile[0]] = number
    return cells


def _frames(data: Bytes, known: Mapping[int, _Element], count: int) -> NDArray[np.int64]:
    """Return int64[count, 2]: where the items of each frame's fragments begin and end."""
    table, *fragments = _raw_items(data, known[_PIXELS].start)
    starts, end = [start - 8 for start, _ in fragments], fragments[-1][1]
    if len(starts) != count:
        offsets = _offsets(data, known, table)
        if len(offsets) != count:
            raise ValueError("no table says where a frame begins")
        starts = [table[1] + offset for offset in offsets]
        end = end if end > starts[-1] else len(data)  # the fragments could not be followed to the end
    return np.array([*zip(starts, [*starts[1:], end], strict=True)], np.int64).reshape(-1, 2)


def _offsets(data: Bytes, known: Mapping[int, _Element], table: tuple[int, int]) -> list[int]:
    """Read the basic offset table, or the extended one (PS3.3, C.7.6.3.1.8)."""
    extended = known.get(_OFFSETS)
    if extended is not None:
        return list(map(int, np.frombuffer(data[extended.start : extended.stop], "<u8")))
    return list(map(int, np.frombuffer(data[slice(*table)], "<u4")))


def _joined(frame: bytes) -> bytes:
    """Join the fragments of a frame."""
    return b"".join(frame[start:stop] for start, stop in _raw_items(frame, 0))


def _raw_items(data: Bytes, place: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop of encapsulated items."""
    while place + 8 <= len(data):
        tag, length = _tag(data, place), _u32(data, place + 4)
        if tag != _ITEM:
            return
        yield place + 8, place + 8 + length
        place += 8 + length


def _elements(data: Bytes, place: int, stop: int) -> Iterator[_Element]:
    """Yield the elements of a data set in explicit VR, little endian, down to its pixels."""
    while place + 8 <= stop:
        tag, kind = _tag(data, place), data[place + 4 : place + 6]
        if tag in _DELIMITERS:
            return
        start, length = (
            (place + 12, _u32(data, place + 8))
            if kind in LONG_FORMS
            else (place + 8, int.from_bytes(data[place + 6 : place + 8], "little"))
        )
        if not kind.isalpha():
            raise ValueError("implicit VR")
        if length != _UNDEFINED:
            place = start + length
        elif tag != _PIXELS:
            place = _end_of_sequence(data, start)
        yield _Element(tag, start, place, length == _UNDEFINED)
        if tag == _PIXELS:
            return


def _items(data: Bytes, sequence: _Element) -> Iterator[tuple[int, int]]:
    """Yield start and stop of a sequence's data sets."""
    place = sequence.start
    while place + 8 <= sequence.stop and _tag(data, place) == _ITEM:
        length = _u32(data, place + 4)
        stop = _end_of_item(data, place + 8) if length == _UNDEFINED else place + 8 + length
        yield place + 8, stop
        place = stop


def _end_of_sequence(data: Bytes, place: int) -> int:
    while _tag(data, place) == _ITEM:
        length = _u32(data, place + 4)
        place = _end_of_item(data, place + 8) if length == _UNDEFINED else place + 8 + length
    return place + 8


def _end_of_item(data: Bytes, place: int) -> int:
    """Return where an item of undefined length ends, including its delimiter."""
    last = place
    for element in _elements(data, place, len(data)):
        last = element.stop
    return last + 8


def _tag(data: Bytes, place: int) -> int:
    group, number = struct.unpack("<HH", data[place : place + 4])
    return int(group) << 16 | int(number)


def _u32(data: Bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 4], "little")


def _number(data: Bytes, element: _Element) -> int:
    return int.from_bytes(data[element.start : element.stop], "little")


def _text(data: Bytes, element: _Element) -> str:
    return data[element.start : element.stop].decode("ascii", errors="replace").strip("\0 ")
