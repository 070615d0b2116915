"""What a slide's headers declare, checked before any reader allocates memory for it.

OpenSlide, libtiff, libdicom and tifffile allocate room for as many tiles, pixels and characters as a file
claims to have; a file of a kilobyte can claim billions. Only that is judged here: readers report all other
faults.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from histgen_lib.errors import InvalidInputError
from histgen_lib.opening import open_ordinary
from histgen_lib.slides.formats import (
    HAMAMATSU_SUFFIXES,
    MIRAX_SUFFIX,
    dicom_files,
    index_entries,
    starts_as_dicom,
)
from histgen_lib.slides.headers.dicom import excess_of_dicom
from histgen_lib.slides.headers.jpeg import excess_of_jpeg
from histgen_lib.slides.headers.tiff import TIFF_STARTS, excess_of_tiff
from histgen_lib.slides.limits import (
    MOST_SIDE_PX,
    MOST_STORED_TILES,
    MOST_TEXT_BYTES,
    MOST_TILE_BYTES,
    first_exceeded,
)
from histgen_lib.slides.settings import Level

_CZI = b"ZISRAWFILE"
_CZI_PLACES = slice(84, 100)
_MOST_PICTURES = 10_000
"""JPEG files of one VMS slide."""


def check_headers(path: Path) -> None:
    """Refuse a slide that declares more than any slide has: InvalidInputError("slide-header-too-large").

    `path`: its file. Of a DICOM slide any of its files: its reader opens all that lie beside it. Raises
    OSError.
    """
    excess = _excess(path)
    if excess is not None:
        raise _too_large(path, excess)


def check_levels(path: Path, levels: tuple[Level, ...]) -> None:
    """Refuse a slide for which its reader reports an impossibly large picture: as `check_headers`."""
    if max((max(level.size) for level in levels), default=0) > MOST_SIDE_PX:
        raise _too_large(path, "a larger picture")


def _excess(path: Path) -> str | None:
    suffix = path.suffix.lower()
    with open_ordinary(path) as file:
        start = file.read(16)
        if start.startswith(TIFF_STARTS):
            return excess_of_tiff(file)
        if start.startswith(_CZI):
            return _of_czi(file)
        file.seek(0)
        is_dicom = starts_as_dicom(file)
    if is_dicom:
        return next((found for part in dicom_files(path.parent) if (found := excess_of_dicom(part))), None)
    if suffix == MIRAX_SUFFIX:
        return _of_mirax(path.with_suffix("") / "Slidedat.ini")
    return _of_hamamatsu(path) if suffix in HAMAMATSU_SUFFIXES else None


def _of_czi(file: BinaryIO) -> str | None:
    """Judge the lengths of a CZI's directory and metadata, which follow the heads of their segments."""
    file.seek(_CZI_PLACES.start)
    places = file.read(_CZI_PLACES.stop - _CZI_PLACES.start)
    parts, text = (_u32_at(file, int.from_bytes(place, "little") + 32) for place in (places[:8], places[8:]))
    return first_exceeded(
        (parts > MOST_STORED_TILES, "more parts"), (text > MOST_TEXT_BYTES, "a longer text")
    )


def _u32_at(file: BinaryIO, place: int) -> int:
    file.seek(min(place, 1 << 62))
    return int.from_bytes(file.read(4), "little")


def _of_mirax(listing: Path) -> str | None:
    numbers = _numbers(listing)
    pictures = numbers.get("IMAGENUMBER_X", 0) * numbers.get("IMAGENUMBER_Y", 0)
    sides = [numbers.get(f"DIGITIZER_{side}", 0) for side in ("WIDTH", "HEIGHT")]
    return first_exceeded(
        (pictures > MOST_STORED_TILES, "more pictures"),
        (math.prod(sides) * 4 > MOST_TILE_BYTES, "larger pictures"),
    )


def _of_hamamatsu(index: Path) -> str | None:
    numbers = _numbers(index)
    pictures = numbers.get("NoJpegColumns", 1) * numbers.get("NoJpegRows", 1) * numbers.get("NoLayers", 1)
    if pictures > _MOST_PICTURES:
        return "more pictures"
    names = (name for key, name in index_entries(index) if key.split("(")[0] in ("ImageFile", "MapFile"))
    parts = (index.parent / name.lstrip("/") for name in dict.fromkeys(names))
    return next((found for part in parts if part.is_file() and (found := _of_jpeg(part))), None)


def _of_jpeg(path: Path) -> str | None:
    with open_ordinary(path) as file:
        return excess_of_jpeg(file, 0)


def _numbers(listing: Path) -> Mapping[str, int]:
    """Read the whole numbers of an index; of a key that occurs in several sections the largest."""
    found: dict[str, int] = {}
    for key, value in index_entries(listing):
        if re.fullmatch(r"\d{1,18}", value.strip()):
            found[key] = max(found.get(key, 0), int(value))
    return found


def _too_large(path: Path, excess: str) -> InvalidInputError:
    return InvalidInputError(
        "slide-header-too-large",
        f"{path.name} declares {excess} than any slide has.",
        hint="The file is damaged, or was made to do harm. Export it again with the scanner's software.",
    )
