"""How much one slide may ask for, and what is said of one that asks for more."""

from __future__ import annotations

from histgen_lib.errors import InvalidInputError

DEFAULT_BYTES = 64 << 30
"""20 × 50 mm of glass at 0.25 µm per pixel have 48 GB uncompressed; most slides have one to five."""
DEFAULT_TILES = 500_000
"""A whole glass (25 × 75 mm) full of tissue has 114,000 tiles of 256 px at 0.5 mpp, 458,000 at 0.25."""
MOST_SQUARES = 16_000_000
"""Of a grid, tissue or not: 140 glasses at 0.5 mpp. Each takes some hundred bytes while tissue is sought."""
MOST_FILES = 10_000
"""In which a slide is stored, or which lie beside a DICOM slide: its reader opens each of them."""


def require_bytes(name: str, size_bytes: int, most_bytes: int) -> None:
    """Refuse a slide whose files have too many bytes together: InvalidInputError("slide-too-large")."""
    if size_bytes > most_bytes:
        raise InvalidInputError(
            "slide-too-large",
            f"{name} has {size_bytes:,} bytes with all that belongs to it; {most_bytes:,} are allowed.",
            hint="If so large a slide is meant, raise HISTGEN_SLIDE_BYTES, for all services.",
        )


def require_files(name: str, count: int) -> None:
    """Refuse a slide for which too many files would be opened: InvalidInputError("slide-too-large")."""
    if count > MOST_FILES:
        raise InvalidInputError(
            "slide-too-large",
            f"{name} is stored in, or lies among, more than {MOST_FILES:,} files.",
            hint="Put each slide of several files into a folder of its own.",
        )


def require_squares(name: str, count: int) -> None:
    """Refuse a grid that cannot be looked through: InvalidInputError("slide-too-many-tiles")."""
    if count > MOST_SQUARES:
        raise InvalidInputError(
            "slide-too-many-tiles",
            f"{name} would have to be cut into {count:,} squares; {MOST_SQUARES:,} are allowed.",
            hint="No glass is that large: look at the slide's size and scale. Export the part that is meant.",
        )


def require_tiles(name: str, count: int, most_tiles: int) -> None:
    """Refuse a slide with too much tissue: InvalidInputError("slide-too-many-tiles")."""
    if count > most_tiles:
        raise InvalidInputError(
            "slide-too-many-tiles",
            f"{name} has {count:,} tiles of tissue; {most_tiles:,} are allowed.",
            hint="Look at the slide's scale; if so many are meant, raise HISTGEN_SLIDE_TILES.",
        )
