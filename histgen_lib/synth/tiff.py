"""Writing a rendered slide as a pyramidal, tiled JPEG TIFF that OpenSlide reads with its resolution."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from histgen_lib.synth.painting import BLOCK_PX, RenderedSlide
from histgen_lib.synth.spec import MPP

JPEG_QUALITY = 85
SHORT, LONG, RATIONAL = 3, 4, 5
"""Field types of TIFF 6.0."""

SMALLEST_PX = 512
"""Levels are halved until the longer side is below this."""


def write_slide(slide: RenderedSlide, path: Path) -> None:
    """Write all levels (factor 2) as a classic little-endian TIFF 6.0, resolution in pixels per cm."""
    with path.open("wb") as out:
        out.write(struct.pack("<2sHI", b"II", 42, 0))
        link = 4
        image, blank, (width, height), level = slide.image, slide.blank, slide.spec.size_px, 0
        while True:
            tiles = _append(out, _tiles(image, blank))
            link = _directory(out, link, (width, height), level, tiles)
            if max(width, height) < SMALLEST_PX:
                return
            width, height, level = -(-width // 2), -(-height // 2), level + 1
            image, blank = _halve(image, blank, (width, height))


def _append(out: BinaryIO, tiles: Iterator[bytes]) -> list[tuple[int, int]]:
    """Write each distinct tile once; return every tile's (offset, length)."""
    known: dict[bytes, tuple[int, int]] = {}
    places = []
    for tile in tiles:
        if tile not in known:
            known[tile] = (out.tell(), len(tile))
            out.write(tile + b"\0" * (len(tile) % 2))
        places.append(known[tile])
    return places


def _directory(
    out: BinaryIO, link: int, size_px: tuple[int, int], level: int, tiles: list[tuple[int, int]]
) -> int:
    """Write one image file directory and link it into the chain; return where the next one's offset goes."""
    resolution = (round(10_000_000 / MPP / 2**level), 1000)
    entries: list[tuple[int, int, tuple[int, ...]]] = [
        (254, LONG, (1 if level else 0,)),  # NewSubfileType: a reduced image
        (256, LONG, (size_px[0],)),
        (257, LONG, (size_px[1],)),
        (258, SHORT, (8, 8, 8)),  # BitsPerSample
        (259, SHORT, (7,)),  # Compression: JPEG
        (262, SHORT, (6,)),  # PhotometricInterpretation: YCbCr
        (277, SHORT, (3,)),  # SamplesPerPixel
        (282, RATIONAL, resolution),
        (283, RATIONAL, resolution),
        (284, SHORT, (1,)),  # PlanarConfiguration
        (296, SHORT, (3,)),  # ResolutionUnit: centimetre
        (322, SHORT, (BLOCK_PX,)),
        (323, SHORT, (BLOCK_PX,)),
        (324, LONG, tuple(offset for offset, _ in tiles)),
        (325, LONG, tuple(length for _, length in tiles)),
        (530, SHORT, (2, 2)),  # YCbCrSubSampling
    ]
    records = [_entry(out, *entry) for entry in entries]
    start = out.tell()
    out.write(struct.pack("<H", len(records)) + b"".join(records) + struct.pack("<I", 0))
    end = out.tell()
    out.seek(link)
    out.write(struct.pack("<I", start))
    out.seek(end)
    return end - 4


def _entry(out: BinaryIO, tag: int, kind: int, values: tuple[int, ...]) -> bytes:
    """Return a directory entry; values longer than four bytes are written before it."""
    data = struct.pack("<" + {SHORT: "H", LONG: "I", RATIONAL: "I"}[kind] * len(values), *values)
    count = len(values) // 2 if kind == RATIONAL else len(values)
    if len(data) <= 4:
        return struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\0")
    place = out.tell()
    out.write(data + b"\0" * (len(data) % 2))
    return struct.pack("<HHII", tag, kind, count, place)


def _tiles(image: NDArray[np.uint8], blank: NDArray[np.bool_]) -> Iterator[bytes]:
    """Yield JPEG streams row by row; bare glass is encoded once."""
    glass: bytes | None = None
    for row in range(blank.shape[0]):
        for column in range(blank.shape[1]):
            if blank[row, column] and glass is not None:
                yield glass
                continue
            tile = image[row * BLOCK_PX : (row + 1) * BLOCK_PX, column * BLOCK_PX : (column + 1) * BLOCK_PX]
            encoded = _jpeg(tile)
            if blank[row, column]:
                glass = encoded
            yield encoded


def _jpeg(tile: NDArray[np.uint8]) -> bytes:
    ok, stream = cv2.imencode(".jpg", tile[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not ok:
        raise ValueError("JPEG encoding failed")
    return bytes(stream.tobytes())


def _halve(
    image: NDArray[np.uint8], blank: NDArray[np.bool_], size_px: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the next level, padded to whole blocks, and which of its blocks are still bare glass."""
    half = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    rows, columns = -(-size_px[1] // BLOCK_PX), -(-size_px[0] // BLOCK_PX)
    half = half[: rows * BLOCK_PX, : columns * BLOCK_PX]
    pad = rows * BLOCK_PX - half.shape[0], columns * BLOCK_PX - half.shape[1]
    if max(pad):
        half = cv2.copyMakeBorder(half, 0, pad[0], 0, pad[1], cv2.BORDER_REPLICATE)
    even = np.pad(
        blank, ((0, 2 * rows - blank.shape[0]), (0, 2 * columns - blank.shape[1])), constant_values=False
    )
    return half, np.asarray(even.reshape(rows, 2, columns, 2).all((1, 3)))
