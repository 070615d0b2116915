"""Which files belong to slides, told from names and index files alone: nothing is opened by OpenSlide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".czi", ".svslide", ".dcm"}
)
MIRAX_SUFFIX = ".mrxs"
HAMAMATSU_SUFFIXES = (".vms", ".vmu")
_HAMAMATSU_KEYS = ("ImageFile", "MapFile", "OptimisationFile", "MacroImage")  # "ImageFile(1,0)" as well
_MIRAX_KEYS = re.compile(r"INDEXFILE|FILE_\d+")
_MOST_INDEX_BYTES = 1 << 20
"""Index files are a few kB; what is longer is none."""


def named_parts(index: Path) -> list[Path]:
    """List the files that a MIRAX (.mrxs) or Hamamatsu (.vms, .vmu) index names, there or not.

    A MIRAX slide keeps its list in the Slidedat.ini of the folder beside it, which is part of the
    slide itself. Empty for every other format. Raises OSError if the list is there and cannot be read.
    """
    suffix = index.suffix.lower()
    if suffix == MIRAX_SUFFIX:
        folder = index.with_suffix("")
        listing = folder / "Slidedat.ini"
        found = [name for key, name in _entries(listing) if _MIRAX_KEYS.fullmatch(key)]
        return [listing, *(folder / name for name in found)]
    if suffix in HAMAMATSU_SUFFIXES:
        entries = _entries(index)
        return [index.parent / name for key, name in entries if key.split("(")[0] in _HAMAMATSU_KEYS]
    return []


def _entries(listing: Path) -> Iterator[tuple[str, str]]:
    """Yield key and value of each `key = value` line whose value can be the name of a file."""
    try:
        with listing.open("rb") as handle:
            lines = handle.read(_MOST_INDEX_BYTES).decode("utf-8-sig", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        key, _, value = (part.strip() for part in line.partition("="))
        if value.strip(".") and not set(value) & set("/\\\0\ufffd"):
            yield key, value
