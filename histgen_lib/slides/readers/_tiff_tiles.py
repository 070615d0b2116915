"""The compressed tiles of TIFF-based slides that OpenSlide reads: Aperio, Philips, Ventana, generic TIFF."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import tifffile

from histgen_lib.slides.readers._stored_tiles import (
    Check,
    StoredTiles,
    in_rows,
    is_whole_deflate,
    is_whole_jpeg,
    is_whole_jpeg_2000,
)
from histgen_lib.slides.settings import Level

_PLACED = ("aperio", "generic-tiff", "philips")
_VENTANA = "ventana"
_JPEG, _DEFLATE = 7, (8, 32946)
_JPEG_2000 = (33003, 33005, 34712)
_JPEG_TABLES_TAG = 347
_XML_TAG = 700
_VENTANA_LEVEL = re.compile(r"level=(\d+)\b")
_VENTANA_AREA = re.compile(rb'<ImageInfo[^>]*AOIScanned="1"')


def tiff_tiles(path: Path, vendor: str, levels: Sequence[Level]) -> Mapping[int, StoredTiles]:
    """Return the compressed tiles of each level, by its number, where the place of each tile is known."""
    if vendor not in (*_PLACED, _VENTANA):
        return {}
    try:
        with tifffile.TiffFile(path) as file:
            pages = [page for page in file.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
            find = _ventana_tiles if vendor == _VENTANA else _placed_tiles
            return find(path, pages, levels)
    except (tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError):
        return {}


def _placed_tiles(
    path: Path, pages: Sequence[tifffile.TiffPage], levels: Sequence[Level]
) -> dict[int, StoredTiles]:
    """Match pages by size. Philips' pages are padded to whole tiles, its levels are not."""
    found: dict[int, StoredTiles] = {}
    for number, level in enumerate(levels):
        for page in pages:
            beyond = page.imagewidth - level.size[0], page.imagelength - level.size[1]
            if _is_placed(page) and 0 <= beyond[0] < page.tilewidth and 0 <= beyond[1] < page.tilelength:
                tile = (page.tilewidth, page.tilelength)
                found.setdefault(number, _stored(path, page, (float(tile[0]), float(tile[1]))))
    return found


def _ventana_tiles(
    path: Path, pages: Sequence[tifffile.TiffPage], levels: Sequence[Level]
) -> dict[int, StoredTiles]:
    """Match pages by their descriptions. Tiles overlap, all by as much as OpenSlide finds on average.

    A tile of a coarser level is cut up and its pieces moved together like those of level 0, so its tiles are
    equally far apart. In a slide with several areas, only OpenSlide knows where each lies.
    """
    by_number = {int(found[1]): page for page in pages if (found := _VENTANA_LEVEL.search(page.description))}
    areas = sum(len(_VENTANA_AREA.findall(_xml_of(page))) for page in by_number.values())
    if areas != 1:
        return {}
    steps = _ventana_steps(by_number[0], levels[0])
    return {
        number: _stored(path, page, steps)
        for number, page in by_number.items()
        if number < len(levels) and _is_placed(page)
    }


def _ventana_steps(page: tifffile.TiffPage, level: Level) -> tuple[float, float]:
    """Return how far apart tiles lie (level-0 px). Raises ValueError where no overlap explains it."""
    sides = zip(level.size, (page.tilewidth, page.tilelength), _counts(page), strict=True)
    steps = [(whole - side) / max(1, count - 1) if count > 1 else side for whole, side, count in sides]
    if not all(0 < step <= side for step, side in zip(steps, (page.tilewidth, page.tilelength), strict=True)):
        raise ValueError("tiles with gaps")
    return float(steps[0]), float(steps[1])


def _stored(path: Path, page: tifffile.TiffPage, step: tuple[float, float]) -> StoredTiles:
    check = _check_of(page)
    return StoredTiles(
        path=path,
        tile_size=(page.tilewidth, page.tilelength),
        step=step,
        offsets=np.asarray(page.dataoffsets, np.int64),
        byte_counts=np.asarray(page.databytecounts, np.int64),
        cells=in_rows(len(page.dataoffsets), _counts(page)[0]),
        is_whole=check,
        sure=check is not None and page.compression not in _JPEG_2000,
    )


def _counts(page: tifffile.TiffPage) -> tuple[int, int]:
    return -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)


def _xml_of(page: tifffile.TiffPage) -> bytes:
    found = page.tags.valueof(_XML_TAG, default=b"")
    return found if isinstance(found, bytes) else str(found).encode()


def _is_placed(page: tifffile.TiffPage) -> bool:
    return page.planarconfig == 1 and len(page.dataoffsets) > 0


def _check_of(page: tifffile.TiffPage) -> Check | None:
    """Return what judges the bytes of a tile; None for compressions that only decoding can judge."""
    if page.compression == _JPEG:
        tables = page.tags.valueof(_JPEG_TABLES_TAG) or b"\xff\xd8\xff\xd9"
        return partial(_is_whole_with, tables[:-2])
    if page.compression in _JPEG_2000:
        return is_whole_jpeg_2000
    if page.compression in _DEFLATE and page.dtype is not None:
        tile_bytes = page.tilewidth * page.tilelength * page.samplesperpixel * page.dtype.itemsize
        return partial(is_whole_deflate, size_bytes=tile_bytes)
    return None


def _is_whole_with(head: bytes, data: bytes) -> bool:
    """Judge a JPEG whose tables are in `head`."""
    return data[:2] == b"\xff\xd8" and is_whole_jpeg(head + data[2:])
