"""The formats of slides: how their files are named, and which other files belong to them.

This is the only table of formats. Whatever looks for slides (a folder walk, the watched folder, an S3
notification, a backfill) knows exactly these. Nothing here decodes pixels: names, index files and the heads
of DICOM files are enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from histgen_lib.opening import Judge, open_ordinary

Index = Literal["mirax", "hamamatsu", "dicom"]
"""How the other files of a slide are found.

"mirax": by Slidedat.ini, in the folder beside the file that has its name. "hamamatsu": the file is itself a
list of names. "dicom": all files in the same folder with the same series UID.
"""


@dataclass(frozen=True)
class Format:
    """A format of slides. `suffixes`: in lower case. `index`: None where a slide is a single file."""

    name: str
    suffixes: tuple[str, ...]
    index: Index | None = None


FORMATS = (
    Format("Aperio SVS", (".svs",)),
    Format("TIFF: Philips, Trestle, generic", (".tif", ".tiff")),
    Format("Hamamatsu NDPI", (".ndpi",)),
    Format("Hamamatsu VMS, VMU", (".vms", ".vmu"), "hamamatsu"),
    Format("3DHISTECH MIRAX", (".mrxs",), "mirax"),
    Format("Leica SCN", (".scn",)),
    Format("Roche BIF", (".bif",)),
    Format("Sakura", (".svslide",)),
    Format("Zeiss CZI", (".czi",)),
    Format("DICOM", (".dcm",), "dicom"),
)
"""What OpenSlide reads, by name. The bytes decide in the end: an SVS named `.tif` is read as an SVS."""


def _with_index(index: Index) -> tuple[str, ...]:
    return tuple(suffix for one in FORMATS if one.index == index for suffix in one.suffixes)


SLIDE_SUFFIXES = frozenset(suffix for one in FORMATS for suffix in one.suffixes)
HAMAMATSU_SUFFIXES = _with_index("hamamatsu")
(MIRAX_SUFFIX,) = _with_index("mirax")
(DICOM_SUFFIX,) = _with_index("dicom")

_HAMAMATSU_KEYS = ("ImageFile", "MapFile", "OptimisationFile", "MacroImage")  # "ImageFile(1,0)" as well
_MIRAX_KEYS = re.compile(r"INDEXFILE|FILE_\d+")
_MOST_INDEX_BYTES = 1 << 20
"""Index files have a few kB; the rest of a longer file is not read."""
_BLANKS = " \t\n\v\f\r"
_ESCAPES = {"s": " ", "n": "\n", "t": "\t", "r": "\r", "\\": "\\"}

DICOM_MAGIC = b"DICM"  # after a 128-byte preamble: DICOM PS3.10, 7.1
WSI_STORAGE_UID = b"1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage, PS3.4, B.5
_DICOM_HEAD_BYTES = 256 << 10


def is_slide_name(name: str) -> bool:
    """Return whether a file or object is named like a slide. Ignores trailing blanks, which S3 allows."""
    return PurePosixPath(name).suffix.rstrip().lower() in SLIDE_SUFFIXES and not name.endswith("/")


def sidecars_of(path: Path) -> tuple[Path, Path]:
    """Return where a sidecar of the slide may lie, in order of precedence: `a.svs.json`, `a.json`."""
    return path.with_name(f"{path.name}.json"), path.with_suffix(".json")


def parts_of(path: Path, series_uid: str | None) -> list[Path]:
    """List the files of the slide at the file `path`. `series_uid`: of a DICOM slide. Raises OSError."""
    if series_uid is not None:
        same = [part for part in dicom_files(path.parent) if series_uid.encode() in _series_uids(_head(part))]
        return same or [path]
    named = {path, *(part for part in named_parts(path) if part.is_file())}
    beside = path.with_suffix("")
    if path.suffix.lower() == MIRAX_SUFFIX and beside.is_dir():
        named |= {part for part in beside.iterdir() if part.is_file()}
    return list(named)


def named_parts(index: Path, judge: Judge | None = None) -> list[Path]:
    """List the files that a MIRAX (.mrxs) or Hamamatsu (.vms, .vmu) index names, whether they exist or not.

    They may lie anywhere: the code that opens them must check that. A MIRAX slide keeps its list in the
    Slidedat.ini of the folder beside it, which is itself part of the slide. Empty for every other format.
    `judge` judges the list. Raises what it raises, and OSError if the list exists and cannot be read.
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


def index_entries(listing: Path, judge: Judge | None = None) -> Iterator[tuple[str, str]]:
    """Yield key and value of each `key = value` line whose value can be the name of a file.

    Values are read as GLib's key files hand them to OpenSlide: blanks at the end count, and escapes are
    undone for some keys. Where it is unclear, both readings are yielded.
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


def own_series(path: Path) -> str | None:
    """Return the series UID of a DICOM file; of several in its head, one that its neighbours have, too."""
    uids = _series_uids(_head(path))
    for part in dicom_files(path.parent) if len(uids) > 1 else ():
        uids = uids & _series_uids(_head(part)) or uids
    return min(uids).decode("ascii", errors="replace") if uids else None


def whole_slide_files(folder: Path) -> Iterator[tuple[Path, set[bytes]]]:
    """Yield each file of a DICOM whole-slide image, with its series UIDs. Holds one head at a time."""
    for part in dicom_files(folder):
        head = _head(part)
        if WSI_STORAGE_UID in head:
            yield part, _series_uids(head)


def dicom_files(folder: Path) -> list[Path]:
    """List the files in a folder that start as DICOM files do. Raises OSError."""
    return [part for part in sorted(folder.iterdir()) if part.is_file() and is_dicom(part)]


def is_dicom(path: Path) -> bool:
    """Return whether `path` starts as a DICOM file does. Raises OSError."""
    with open_ordinary(path) as handle:
        return starts_as_dicom(handle)


def starts_as_dicom(handle: BinaryIO) -> bool:
    """Return whether a file that was just opened starts as a DICOM file does."""
    return handle.read(132)[128:] == DICOM_MAGIC


def _below(folder: Path, names: list[str]) -> list[Path]:
    """Join as OpenSlide does: it puts the folder in front of every name, "/etc/passwd" included."""
    return list(dict.fromkeys(folder / name.lstrip("/") for name in names))


def _unescaped(value: str) -> str:
    return re.sub(r"\\([sntr\\])", lambda found: _ESCAPES[found[1]], value)


def _series_uids(head: bytes) -> set[bytes]:
    """Return all values of Series Instance UID (0020,000E) in a DICOM head, with explicit or implicit VR."""
    found = set()
    for match in re.finditer(rb"\x20\x00\x0e\x00(?:UI(?s:(..))|(?s:(.))\0\0\0)", head):
        length = int.from_bytes(match[1] or match[2], "little")
        found.add(head[match.end() : match.end() + length].rstrip(b"\0 "))
    return found


def _head(path: Path) -> bytes:
    with open_ordinary(path) as handle:
        return handle.read(_DICOM_HEAD_BYTES)
