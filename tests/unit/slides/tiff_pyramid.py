"""A small writer of tiled JPEG pyramids like those of scanners, for tests."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL = 1, 2, 3, 4, 5
_SIZES = {_BYTE: 1, _ASCII: 1, _SHORT: 2, _LONG: 4, _RATIONAL: 8}


def write_pyramid(
    path: Path,
    levels: Sequence[NDArray[np.uint8]],
    *,
    tile_px: int = 256,
    mpp: float | None = 0.5,
    description: str = "",
    dpi: float | None = None,
    strips: Sequence[NDArray[np.uint8]] = (),
    blank_tiles: frozenset[int] = frozenset(),
    quality: int = 92,
    texts: Sequence[Mapping[int, str]] = (),
) -> Path:
    """Write `levels` (uint8[h,w,3] RGB, finest first) as tiled pages, then `strips` as one-strip pages.

    `mpp` or `dpi` fill the resolution tags. `blank_tiles`: tiles of level 0 that are left out (length 0).
    `texts`: further tags of each level; 700 (XML) is written as bytes.
    """
    out = bytearray(b"II*\0\0\0\0\0")
    link = 4
    for index, image in enumerate(levels):
        blank = blank_tiles if index == 0 else frozenset()
        data = [b"" if n in blank else part for n, part in enumerate(jpeg_tiles(image, tile_px, quality))]
        tags = _tags(image, data, out) | {322: (_LONG, [tile_px]), 323: (_LONG, [tile_px])}
        tags |= {324: tags.pop(273), 325: tags.pop(279)}
        tags |= {254: (_LONG, [int(index > 0)])} | _resolution(
            mpp and mpp * levels[0].shape[1] / image.shape[1], dpi
        )
        if description:
            tags[270] = (_ASCII, [*description.encode(), 0])
        for tag, text in texts[index].items() if texts else ():
            tags[tag] = (_BYTE, [*text.encode()]) if tag == 700 else (_ASCII, [*text.encode(), 0])
        link = _directory(out, tags, link)
    for image in strips:
        tags = _tags(image, [_jpeg(image, quality)], out) | {278: (_LONG, [image.shape[0]])}
        if description:
            tags[270] = (_ASCII, [*description.encode(), 0])
        link = _directory(out, tags, link)
    path.write_bytes(out)
    return path


def halved(image: NDArray[np.uint8], times: int = 1) -> NDArray[np.uint8]:
    """Return the picture at 1/2 (1/4, …) of its size."""
    size = (max(1, image.shape[1] >> times), max(1, image.shape[0] >> times))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _tags(image: NDArray[np.uint8], data: list[bytes], out: bytearray) -> dict[int, tuple[int, list]]:
    offsets = []
    for part in data:
        offsets.append(len(out) if part else 0)
        out += part + b"\0" * (len(part) % 2)
    height, width = image.shape[:2]
    return {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [8, 8, 8]),
        259: (_SHORT, [7]),
        262: (_SHORT, [6]),
        277: (_SHORT, [3]),
        284: (_SHORT, [1]),
        530: (_SHORT, [1, 1]),
        273: (_LONG, offsets),
        279: (_LONG, [len(part) for part in data]),
    }


def _resolution(mpp: float | None, dpi: float | None) -> dict[int, tuple[int, list]]:
    if dpi is None and mpp is None:
        return {}
    per_unit = dpi if dpi is not None else 1e4 / mpp
    value = (_RATIONAL, [round(per_unit * 1000), 1000])
    return {282: value, 283: value, 296: (_SHORT, [2 if dpi is not None else 3])}


def _directory(out: bytearray, tags: dict[int, tuple[int, list]], link: int) -> int:
    entries = []
    for tag, (kind, values) in sorted(tags.items()):
        code = {_BYTE: "B", _ASCII: "B", _SHORT: "H", _LONG: "I", _RATIONAL: "I"}[kind]
        packed = struct.pack(f"<{len(values)}{code}", *values)
        count = len(packed) // _SIZES[kind]
        if len(packed) > 4:
            out += b"\0" * (len(out) % 2)
            packed, place = struct.pack("<I", len(out)), packed
            out += place
        entries.append(struct.pack("<HHI", tag, kind, count) + packed.ljust(4, b"\0"))
    out += b"\0" * (len(out) % 2)
    struct.pack_into("<I", out, link, len(out))
    out += struct.pack("<H", len(entries)) + b"".join(entries)
    out += b"\0\0\0\0"
    return len(out) - 4


def jpeg_tiles(image: NDArray[np.uint8], tile_px: int, quality: int) -> Iterator[bytes]:
    for top in range(0, image.shape[0], tile_px):
        for left in range(0, image.shape[1], tile_px):
            tile = np.full((tile_px, tile_px, 3), 255, np.uint8)
            part = image[top : top + tile_px, left : left + tile_px]
            tile[: part.shape[0], : part.shape[1]] = part
            yield _jpeg(tile, quality)


def _jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    how = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
    return cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), how)[1].tobytes()
