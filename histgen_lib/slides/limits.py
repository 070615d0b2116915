"""The limits of one slide: how many bytes, files and tiles it may have, and what its headers may declare.

docs/slides.md lists them.
"""

from __future__ import annotations

from histgen_lib.errors import InvalidInputError

DEFAULT_BYTES = 64 << 30
"""20 × 50 mm of glass at 0.25 µm per pixel have 48 GB uncompressed; most slides have one to five."""
DEFAULT_TILES = 500_000
"""A whole glass (25 × 75 mm) full of tissue has 114,000 tiles of 256 px at 0.5 mpp, 458,000 at 0.25."""
MOST_SQUARES = 16_000_000
"""Of a grid, with tissue or without: 140 glasses at 0.5 mpp. Each takes some hundred bytes while planned."""
MOST_FILES = 10_000
"""That a slide is stored in, or that lie beside a DICOM slide: its reader opens each of them."""

MOST_SIDE_PX = 4_000_000
"""Half a metre at 0.125 µm per pixel."""
MOST_STORED_TILES = 4_000_000
"""Compressed tiles of all levels: 400,000 × 400,000 px in tiles of 256 px have 3.3 million."""
MOST_TILE_BYTES = 256 << 20
"""Of one tile, compressed or decoded."""
MOST_WHOLE_BYTES = 1 << 30
"""Of a picture that can only be decoded as a whole, in RGBA."""
MOST_TEXT_BYTES, MOST_TEXTS_BYTES = 16 << 20, 64 << 20
"""Of the text in one tag, and in all together. Parsed XML takes thirty times as much."""


def require_bytes(name: str, size_bytes: int, most_bytes: int) -> None:
    """Refuse a slide whose files together have too many bytes: InvalidInputError("slide-too-large")."""
    if size_bytes > most_bytes:
        raise InvalidInputError(
            "slide-too-large",
            f"{name} has {size_bytes:,} bytes with all its files; {most_bytes:,} are allowed.",
            hint="If slides this large are intended, raise HISTGEN_SLIDE_BYTES for all services.",
        )


def require_files(name: str, count: int) -> None:
    """Refuse a slide for which too many files would be opened: InvalidInputError("slide-too-large")."""
    if count > MOST_FILES:
        raise InvalidInputError(
            "slide-too-large",
            f"{name} is stored in, or lies among, more than {MOST_FILES:,} files.",
            hint="Put each slide that has several files into a folder of its own.",
        )


def require_squares(name: str, count: int) -> None:
    """Refuse a grid that is too large to be searched: InvalidInputError("slide-too-many-tiles")."""
    if count > MOST_SQUARES:
        raise InvalidInputError(
            "slide-too-many-tiles",
            f"{name} would have to be cut into {count:,} squares; {MOST_SQUARES:,} are allowed.",
            hint="No glass is that large: check the slide's size and scale, or export a part of it.",
        )


def require_tiles(name: str, count: int, most_tiles: int) -> None:
    """Refuse a slide with too much tissue: InvalidInputError("slide-too-many-tiles")."""
    if count > most_tiles:
        raise InvalidInputError(
            "slide-too-many-tiles",
            f"{name} has {count:,} tiles of tissue; {most_tiles:,} are allowed.",
            hint="Check the slide's scale; if so many tiles are intended, raise HISTGEN_SLIDE_TILES.",
        )


def first_exceeded(*limits: tuple[bool, str]) -> str | None:
    """Return the words of the first limit that is exceeded; None if none is."""
    return next((what for exceeded, what in limits if exceeded), None)
