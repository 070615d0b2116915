"""Which files belong to slides, told from names and index files alone: nothing is opened by OpenSlide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from histgen_lib.opening import Judge, open_ordinary

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".czi", ".svslide", ".dcm"}
)
MIRAX_SUFFIX = ".mrxs"
HAMAMATSU_SUFFIXES = (".vms", ".vmu")
_HAMAMATSU_KEYS = ("ImageFile", "MapFile", "OptimisationFile", "MacroImage")  # "ImageFile(1,0)" as well
_MIRAX_KEYS = re.compile(r"INDEXFILE|FILE_\d+")
_MOST_INDEX_BYTES = 1 << 20
"""Index files are a few kB; what is longer is none."""
_BLANKS = " \t\n\v\f\r"
_ESCAPES = {"s": " ", "n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def is_slide_name(name: str) -> bool:
    """Whether a file or object is called as slides are; blanks at the end, as S3 lets keys have, may be."""
    return PurePosixPath(name).suffix.rstrip().lower() in SLIDE_SUFFIXES and not name.endswith("/")


def named_parts(index: Path, judge: Judge | None = None) -> list[Path]:
    """List the files that a MIRAX (.mrxs) or Hamamatsu (.vms, .vmu) index names, there or not.

    They may lie anywhere: whoever opens them judges that. A MIRAX slide keeps its list in the Slidedat.ini of
    the folder beside it, which is part of the slide itself. Empty for every other format. `judge`: of that
    list. Raises what it raises, and OSError if the list is there and cannot be read.
    """
    suffix = index.suffix.lower()
    if suffix == MIRAX_SUFFIX:
        folder = index.with_suffix("")
        listing = folder / "Slidedat.ini"
        found = [name for key, name in index_entries(listing, judge) if _MIRAX_KEYS.fullmatch(key)]
        return [listing, *_below(folder, found)]
    if suffix in HAMAMATSU_SUFFIXES:
        entries = index_entries(index, judge)
        return _below(index.parent, [name for key, name in entries if key.split("(")[0] in _HAMAMATSU_KEYS])
    return []


def _below(folder: Path, names: list[str]) -> list[Path]:
    """Return what OpenSlide makes of names: it puts the folder before all of them, "/etc/passwd" too."""
    return list(dict.fromkeys(folder / name.lstrip("/") for name in names))


def index_entries(listing: Path, judge: Judge | None = None) -> Iterator[tuple[str, str]]:
    """Yield key and value of each `key = value` line whose value can be the name of a file.

    A value is taken as GLib's key files give it to OpenSlide: blanks at its end count, and of some keys
    escapes do.
    """
    try:
        with open_ordinary(listing, judge) as handle:
            lines = handle.read(_MOST_INDEX_BYTES).decode("utf-8-sig", errors="replace").split("\n")
    except FileNotFoundError:
        return
    for line in lines:
        key, _, value = line.removesuffix("\r").partition("=")
        value = value.lstrip(_BLANKS)
        if value.strip("./") and not set(value) & set("\0\ufffd"):
            yield from ((key.strip(_BLANKS), name) for name in dict.fromkeys((value, _unescaped(value))))


def _unescaped(value: str) -> str:
    return re.sub(r"\\([sntr\\])", lambda found: _ESCAPES[found[1]], value)
