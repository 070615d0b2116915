"""From what a person points at to the file to open: missing, empty, unreadable paths and DICOM folders."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from histgen_lib.errors import InvalidInputError
from histgen_lib.opening import PROGRESS, open_ordinary
from histgen_lib.slides.parts import MIRAX_SUFFIX, named_parts

_DICOM_MAGIC = b"DICM"  # after a 128-byte preamble: DICOM PS3.10, 7.1
_WSI_STORAGE_UID = b"1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage, PS3.4, B.5
_DICOM_HEAD_BYTES = 256 << 10
_PIECE_BYTES = 1 << 20
_MOST_GAP_BYTES = 1 << 30
"""Copy programs give a file its size first; what they leave behind when they end early is mostly a gap."""


def locate(path: Path) -> Path:
    """Return the file to open for `path`: itself, or a file of the DICOM series in a folder.

    Raises `InvalidInputError`: `slide-missing`, `slide-unreadable`, `slide-empty`, `slide-is-folder`.
    """
    try:
        if path.is_dir():
            return _first_dicom(path)
        with open_ordinary(path) as handle:
            empty = not handle.read(1)
    except FileNotFoundError as error:
        raise missing_slide(path) from error
    except OSError as error:
        raise unreadable_slide(path, error) from error
    if empty:
        raise InvalidInputError(
            "slide-empty",
            f"{path.name} is an empty file.",
            hint="The copy did not finish. Copy it again from the scanner.",
        )
    return path


def content_id(path: Path, *, series_uid: str | None = None) -> str:
    """SHA-256 (64 hexadecimal digits) of every byte the slide is stored in; names and dates do not count.

    One file: the SHA-256 of that file. Several files (a DICOM series, MIRAX, VMS): the SHA-256 of the sorted
    SHA-256 of its files. Raises `InvalidInputError("slide-unreadable")`.
    """
    try:
        return content_id_of(parts_of(path, series_uid))
    except OSError as error:
        raise unreadable_slide(path, error) from error


def stored_in(path: Path) -> list[Path]:
    """List every file of the slide at `path` (a file, or a DICOM folder), found without opening the slide.

    A folder that holds no DICOM slide, or several, is taken whole: opening it will say what is wrong with it.
    Raises `InvalidInputError`: `slide-missing`, `slide-unreadable`.
    """
    try:
        if path.is_dir():
            return _series_of_folder(path)
        return parts_of(path, _own_series(path) if is_dicom(path) else None)
    except FileNotFoundError as error:
        raise missing_slide(path) from error
    except OSError as error:
        raise unreadable_slide(path, error) from error


def content_id_of(parts: Sequence[Path]) -> str:
    """Return the `content_id` of a slide stored in the files `parts`.

    Raises OSError, and InvalidInputError: "slide-changed" for a file that grows, "slide-unreadable" for one
    that is mostly a gap, whatever its size says: reading either might never end.
    """
    digests = sorted(_digest(part, alone=len(parts) == 1) for part in parts)
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _digest(part: Path, *, alone: bool) -> str:
    """SHA-256 of as many bytes as the file has now; a file that has more by the end is refused.

    It is named if it is the whole slide: names that an index says may be words of a patient.
    """
    told = part if alone else part.with_name("A file of the slide")
    digest = hashlib.sha256()
    with open_ordinary(part) as file:
        left = os.fstat(file.fileno()).st_size
        if _gaps(file, left) > max(_MOST_GAP_BYTES, left // 2):
            raise unreadable_slide(told, OSError(errno.ENODATA, "most of it was never written"))
        while left and (piece := file.read(min(left, _PIECE_BYTES))):
            digest.update(piece)
            PROGRESS.get()()
            left -= len(piece)
        if left or file.read(1):
            raise InvalidInputError(
                "slide-changed",
                f"{told.name} changed while it was read.",
                hint="Wait until the copy has finished, then try it again.",
            )
    return digest.hexdigest()


def _gaps(file: BinaryIO, size: int) -> int:
    """Return how many bytes of a file were never written, where the file system can tell: 0 elsewhere."""
    gaps = at = 0
    while at < size and (start := file.seek(at, os.SEEK_HOLE)) < size:
        try:
            at = file.seek(start, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a gap from here to the end
            at = size
        gaps += at - start
    file.seek(0)
    return gaps


def _series_of_folder(folder: Path) -> list[Path]:
    try:
        first = _first_dicom(folder)
    except InvalidInputError:
        return [part for part in sorted(folder.iterdir()) if part.is_file()]
    return parts_of(first, _own_series(first))


def _own_series(path: Path) -> str | None:
    """Return the series of a DICOM file; of several named in its head, one that its neighbours name, too."""
    uids = _series_uids(_head(path))
    for part in dicom_files(path.parent) if len(uids) > 1 else ():
        uids = uids & _series_uids(_head(part)) or uids
    return min(uids).decode("ascii", errors="replace") if uids else None


def parts_of(path: Path, series_uid: str | None) -> list[Path]:
    """List the files of the slide at the file `path`; `series_uid`: of a DICOM slide. Raises OSError."""
    if series_uid is not None:
        same = [part for part in dicom_files(path.parent) if series_uid.encode() in _series_uids(_head(part))]
        return same or [path]
    named = {path, *(part for part in named_parts(path) if part.is_file())}
    beside = path.with_suffix("")
    if path.suffix.lower() == MIRAX_SUFFIX and beside.is_dir():
        named |= {part for part in beside.iterdir() if part.is_file()}
    return list(named)


def _first_dicom(folder: Path) -> Path:
    """Return a file of the one whole-slide series in `folder`."""
    series = dict(_whole_slides(folder))
    if not series:
        raise InvalidInputError(
            "slide-is-folder",
            f"{folder.name or folder} is a folder without a DICOM whole-slide series.",
            hint="Give the slide files themselves, for example: histgen report FOLDER/*.svs",
        )
    first, uids = next(iter(series.items()))
    if any(uids.isdisjoint(others) for others in series.values() if uids and others):
        raise InvalidInputError(
            "slide-is-folder",
            f"{folder.name} is a folder with several DICOM slides.",
            hint="Give one file of each slide instead of the folder; its other files are found beside it.",
        )
    return first


def _whole_slides(folder: Path) -> Iterator[tuple[Path, set[bytes]]]:
    """Yield each file of a whole-slide image with its series; one head is held at a time."""
    for part in dicom_files(folder):
        head = _head(part)
        if _WSI_STORAGE_UID in head:
            yield part, _series_uids(head)


def dicom_files(folder: Path) -> list[Path]:
    """List the files in a folder that start as DICOM files do. Raises OSError."""
    return [part for part in sorted(folder.iterdir()) if part.is_file() and is_dicom(part)]


def is_dicom(path: Path) -> bool:
    """Whether `path` starts as a DICOM file does."""
    with open_ordinary(path) as handle:
        return starts_as_dicom(handle)


def starts_as_dicom(handle: BinaryIO) -> bool:
    """Whether a file that was just opened starts as a DICOM file does."""
    return handle.read(132)[128:] == _DICOM_MAGIC


def _series_uids(head: bytes) -> set[bytes]:
    """Return all values of Series Instance UID (0020,000E), with explicit or implicit VR, in a DICOM head."""
    found = set()
    for match in re.finditer(rb"\x20\x00\x0e\x00(?:UI(?s:(..))|(?s:(.))\0\0\0)", head):
        length = int.from_bytes(match[1] or match[2], "little")
        found.add(head[match.end() : match.end() + length].rstrip(b"\0 "))
    return found


def _head(path: Path) -> bytes:
    with open_ordinary(path) as handle:
        return handle.read(_DICOM_HEAD_BYTES)


def missing_slide(path: Path) -> InvalidInputError:
    """Say that there is no such slide."""
    return InvalidInputError(
        "slide-missing", f"There is no file {path.name}.", hint="Check the path for a typing error."
    )


def unreadable_slide(path: Path, error: Exception) -> InvalidInputError:
    """Say why the system does not let a slide's file be read."""
    why = error.strerror if isinstance(error, OSError) else None
    odd = isinstance(error, OSError) and error.errno in (errno.EINVAL, errno.ELOOP)
    return InvalidInputError(
        "slide-unreadable",
        f"{path.name} cannot be read: {why or type(error).__name__}.",
        hint="Give the slide's own file, no pipe, device or link in a circle; move what is none away from it."
        if odd
        else "Check that this account may read the file and that its disk or network share is there.",
    )
