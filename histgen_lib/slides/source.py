"""The files behind a slide: which may be opened, which one to open, and what identifies their bytes.

OpenSlide opens files on its own: those that an index names, every file in a DICOM slide's folder, and files
with certain names beside a slide. A pipe among them would block it forever, and a link could lead it
anywhere. So each of them is admitted before a reader sees the slide.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from histgen_lib.errors import InvalidInputError
from histgen_lib.opening import PROGRESS, Judge, check_ordinary, open_ordinary
from histgen_lib.slides.formats import (
    is_dicom,
    named_parts,
    own_series,
    parts_of,
    starts_as_dicom,
    whole_slide_files,
)
from histgen_lib.slides.limits import require_files

_BESIDE = (".Full",)
"""Suffixes that a reader puts in place of a slide's own: Trestle's picture of the whole glass."""
_BEHIND = ("-journal", "-wal", "-shm")
"""Endings that a reader appends to a slide's name: those of SQLite, in which Sakura's slides are stored."""
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)

_PIECE_BYTES = 1 << 20
_MOST_GAP_BYTES = 1 << 30
"""Copy programs give a file its size first; when they stop early, most of what they leave is a gap."""


class Bounds(Protocol):
    """Where all files of a slide have to lie, such as `histgen_lib.access.places.Roots`."""

    def judge(self, real: Path) -> None:
        """Refuse a file by its real path (links resolved by the system), without any further look-up.

        Raises InvalidInputError("uri-outside-roots").
        """

    def require_part(self, path: Path) -> None:
        """Refuse a file that leads out of the bounds, whether it exists or not. Raises as `judge`."""


def admit(path: Path, within: Bounds | None) -> bool:
    """Refuse a slide for which a reader would open what it must not. Return whether it is a DICOM folder.

    `within`: where all of it has to lie, links followed; None: anywhere. Raises InvalidInputError:
    "slide-missing", "slide-unreadable" (for one, a file of it is no regular file), "uri-outside-roots",
    "slide-too-large" (too many files).
    """
    judge = within.judge if within is not None else None
    with _errors_about(path):
        if not check_ordinary(path, judge):
            _check_neighbours(path, path, within)
            return True
        with open_ordinary(path, judge) as file:
            dicom = starts_as_dicom(file)
        if dicom:
            _check_neighbours(path, path.parent, within)
    for part in _named(path, judge):
        if within is not None:
            within.require_part(part)
        with _errors_about(path, "of a file that belongs to it, "):
            _check_part(part, judge)
    return False


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


def stored_in(path: Path) -> list[Path]:
    """List every file of the slide at `path` (a file, or a DICOM folder), without opening the slide.

    A folder with no DICOM slide, or with several, is taken whole: opening it will say what is wrong with it.
    Raises `InvalidInputError`: `slide-missing`, `slide-unreadable`.
    """
    try:
        if path.is_dir():
            return _series_of_folder(path)
        return parts_of(path, own_series(path) if is_dicom(path) else None)
    except FileNotFoundError as error:
        raise missing_slide(path) from error
    except OSError as error:
        raise unreadable_slide(path, error) from error


def content_id(path: Path, *, series_uid: str | None = None) -> str:
    """SHA-256 (64 hexadecimal digits) of every byte the slide is stored in; names and dates do not count.

    One file: the SHA-256 of that file. Several files (a DICOM series, MIRAX, VMS): the SHA-256 of the sorted
    SHA-256 of its files. Raises `InvalidInputError("slide-unreadable")`.
    """
    try:
        return content_id_of(parts_of(path, series_uid))
    except OSError as error:
        raise unreadable_slide(path, error) from error


def content_id_of(parts: Sequence[Path]) -> str:
    """Return the `content_id` of a slide stored in the files `parts`.

    Raises OSError, and InvalidInputError: "slide-changed" for a file that grows, "slide-unreadable" for one
    that is mostly a gap, whatever its size says: reading either might never end.
    """
    digests = sorted(_digest(part, alone=len(parts) == 1) for part in parts)
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def missing_slide(path: Path) -> InvalidInputError:
    """Return the error for a slide that does not exist."""
    return InvalidInputError(
        "slide-missing", f"There is no file {path.name}.", hint="Check the path for a typing error."
    )


def unreadable_slide(path: Path, error: Exception) -> InvalidInputError:
    """Return the error for a slide that the system does not let us read."""
    why = error.strerror if isinstance(error, OSError) else None
    odd = isinstance(error, OSError) and error.errno in (errno.EINVAL, errno.ELOOP)
    return InvalidInputError(
        "slide-unreadable",
        f"{path.name} cannot be read: {why or type(error).__name__}.",
        hint="Give the slide's own file, and keep pipes, devices and circular links out of its folder."
        if odd
        else "Check that this account may read the file and that its disk or network share is there.",
    )


def _named(path: Path, judge: Judge | None) -> list[Path]:
    with _errors_about(path):
        beside = [path.with_suffix(ending) for ending in _BESIDE]
        behind = [path.with_name(path.name + ending) for ending in _BEHIND]
        named = named_parts(path, judge)
        require_files(path.name, len(named))
        return [*named, *beside, *behind]


def _check_part(part: Path, judge: Judge | None) -> None:
    """Check a file that a reader opens. An absent one is left for the reader to miss."""
    try:
        with open_ordinary(part, judge):
            pass
    except OSError as error:
        if error.errno not in _ABSENT:
            raise


def _check_neighbours(slide: Path, folder: Path, within: Bounds | None) -> None:
    for count, part in enumerate(folder.iterdir(), 1):
        require_files(slide.name, count)
        _check_neighbour(part, within)


def _check_neighbour(part: Path, within: Bounds | None) -> None:
    """Check what a DICOM reader tries on its own. It skips folders and whatever it cannot open.

    A link is judged by where it leads before anything is looked up there, so the answer is the same whether
    that is a file, a folder or nothing.
    """
    try:
        if within is not None and part.is_symlink():
            within.require_part(part)
        if check_ordinary(part):
            with open_ordinary(part, within.judge if within is not None else None):
                pass
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EBUSY):
            raise OSError(error.errno, f"of a file in its folder, {error.strerror}") from None


@contextmanager
def _errors_about(path: Path, which: str = "") -> Iterator[None]:
    """Raise the system's errors as errors of the slide at `path`; `which` of its files, never by name."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing_slide(path) from error
    except OSError as error:
        raise unreadable_slide(path, OSError(error.errno, f"{which}{error.strerror}")) from error
    except ValueError as error:
        raise unreadable_slide(path, error) from error


def _first_dicom(folder: Path) -> Path:
    """Return a file of the one whole-slide series in `folder`."""
    series = dict(whole_slide_files(folder))
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


def _series_of_folder(folder: Path) -> list[Path]:
    try:
        first = _first_dicom(folder)
    except InvalidInputError:
        return [part for part in sorted(folder.iterdir()) if part.is_file()]
    return parts_of(first, own_series(first))


def _digest(part: Path, *, alone: bool) -> str:
    """Return the SHA-256 of as many bytes as the file has now; refuse a file that has more by the end.

    Errors name the file only if it is the whole slide: a name in an index may contain a patient's.
    """
    shown = part if alone else part.with_name("A file of the slide")
    digest = hashlib.sha256()
    with open_ordinary(part) as file:
        left = os.fstat(file.fileno()).st_size
        if _gaps(file, left) > max(_MOST_GAP_BYTES, left // 2):
            raise unreadable_slide(shown, OSError(errno.ENODATA, "most of it was never written"))
        while left and (piece := file.read(min(left, _PIECE_BYTES))):
            digest.update(piece)
            PROGRESS.get()()
            left -= len(piece)
        if left or file.read(1):
            raise InvalidInputError(
                "slide-changed",
                f"{shown.name} changed while it was read.",
                hint="Wait until the copy has finished, then try again.",
            )
    return digest.hexdigest()


def _gaps(file: BinaryIO, size: int) -> int:
    """Return how many bytes of a file were never written; 0 where the file system cannot tell."""
    gaps = at = 0
    while at < size and (start := file.seek(at, os.SEEK_HOLE)) < size:
        try:
            at = file.seek(start, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a gap from here to the end
            at = size
        gaps += at - start
    file.seek(0)
    return gaps
