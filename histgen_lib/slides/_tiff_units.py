"""The compressed tiles of TIFF-based slides that OpenSlide reads: Aperio, Philips, Ventana, generic TIFF."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import tifffile

from histgen_lib.slides._damage import Check, is_whole_deflate, is_whole_jpeg, is_whole_jpeg_2000
from histgen_lib.slides._units import Units, in_rows
from histgen_lib.slides.settings import Level

_PLACED = ("aperio", "generic-tiff", "philips")
_VENTANA = "ventana"
_JPEG, _DEFLATE = 7, (8, 32946)
_JPEG_2000 = (33003, 33005, 34712)
_JPEG_TABLES_TAG = 347
_VENTANA_LEVEL = re.compile(r"level=(\d+)\b")


def tiff_units(path: Path, vendor: str, levels: Sequence[Level]) -> Mapping[int, Units]:
    """Find the compressed tiles of each level, by its number; of no level that nobody can check."""
    if vendor not in (*_PLACED, _VENTANA):
        return {}
    try:
        with tifffile.TiffFile(path) as file:
            pages = [page for page in file.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
            of = _ventana_page if vendor == _VENTANA else _page_of_size
            paged = {number: of(pages, number, level) for number, level in enumerate(levels)}
            found = {number: _units(path, page, vendor) for number, page in paged.items() if page is not None}
    except (tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError):
        return {}
    return {number: units for number, units in found.items() if units is not None}


def _page_of_size(pages: Sequence[tifffile.TiffPage], number: int, level: Level) -> tifffile.TiffPage | None:
    """Return the page of that size; Philips' pages are filled up to whole tiles, its levels are not."""
    del number
    for page in pages:
        beyond = page.imagewidth - level.size[0], page.imagelength - level.size[1]
        if 0 <= beyond[0] < page.tilewidth and 0 <= beyond[1] < page.tilelength:
            return page
    return None


def _ventana_page(pages: Sequence[tifffile.TiffPage], number: int, level: Level) -> tifffile.TiffPage | None:
    del level
    for page in pages:
        told = _VENTANA_LEVEL.search(page.description)
        if told and int(told[1]) == number:
            return page
    return None


def _units(path: Path, page: tifffile.TiffPage, vendor: str) -> Units | None:
    check = _check_of(page)
    if check is None or page.planarconfig != 1 or not len(page.dataoffsets):
        return None
    across = -(-page.imagewidth // page.tilewidth)
    return Units(
        path=path,
        tile_size=(page.tilewidth, page.tilelength),
        offsets=np.asarray(page.dataoffsets, np.int64),
        byte_counts=np.asarray(page.databytecounts, np.int64),
        cells=in_rows(len(page.dataoffsets), across) if vendor in _PLACED else None,
        is_whole=check,
        sure=page.compression not in _JPEG_2000,
    )


def _check_of(page: tifffile.TiffPage) -> Check | None:
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
    """Judge a JPEG whose tables lie in `head`."""
    return data[:2] == b"\xff\xd8" and is_whole_jpeg(head + data[2:])
