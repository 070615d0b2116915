"""Before a slide is opened: whatever a reader would open for it is an ordinary file, and lies where it may.

OpenSlide opens files by itself: those that an index names, every file in a DICOM slide's folder, and files of
certain names beside a slide. A pipe among them would hold it for ever, a link would lead it anywhere.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from histgen_lib.access.places import Roots
from histgen_lib.opening import Judge, check_ordinary, open_ordinary
from histgen_lib.slides.parts import named_parts
from histgen_lib.slides.quotas import require_files
from histgen_lib.slides.source import missing_slide, starts_as_dicom, unreadable_slide

_BESIDE = (".Full",)
"""Endings that a reader puts in place of a slide's own: Trestle's picture of the whole glass."""
_BEHIND = ("-journal", "-wal", "-shm")
"""Endings that a reader puts behind a slide's name: SQLite's, in which Sakura's slides are kept."""
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def admit(path: Path, within: Roots | None) -> bool:
    """Refuse a slide for which a reader would open what it must not; tell whether it is a DICOM folder.

    `within`: where all of it has to lie, links followed; None: anywhere. Raises InvalidInputError:
    "slide-missing", "slide-unreadable" (no ordinary file among others), "uri-outside-roots",
    "slide-too-large" (too many files).
    """
    judge = within.judge if within is not None else None
    with _told_of(path):
        if not check_ordinary(path, judge):
            _check_neighbours(path, path, within)
            return True
        with open_ordinary(path, judge) as file:
            is_dicom = starts_as_dicom(file)
        if is_dicom:
            _check_neighbours(path, path.parent, within)
    for part in _named(path, judge):
        if within is not None:
            within.require_part(part)
        with _told_of(path, "of a file that belongs to it, "):
            _check_part(part, judge)
    return False


def _named(path: Path, judge: Judge | None) -> list[Path]:
    with _told_of(path):
        beside = [path.with_suffix(ending) for ending in _BESIDE]
        behind = [path.with_name(path.name + ending) for ending in _BEHIND]
        named = named_parts(path, judge)
        require_files(path.name, len(named))
        return [*named, *beside, *behind]


def _check_part(part: Path, judge: Judge | None) -> None:
    """Check a file that a reader opens; one that is absent is for the reader to miss."""
    try:
        with open_ordinary(part, judge):
            pass
    except OSError as error:
        if error.errno not in _ABSENT:
            raise


def _check_neighbours(slide: Path, folder: Path, within: Roots | None) -> None:
    for count, part in enumerate(folder.iterdir(), 1):
        require_files(slide.name, count)
        _check_neighbour(part, within)


def _check_neighbour(part: Path, within: Roots | None) -> None:
    """Check what a reader of DICOM tries by itself; folders and what it cannot open it passes over.

    A link is judged by where it leads before anything is looked up there: what is said of it is the same
    whether that is a file, a folder or nothing.
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
def _told_of(path: Path, which: str = "") -> Iterator[None]:
    """Tell of the slide at `path` what the system says; `which` of its files: names in it are not told."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing_slide(path) from error
    except OSError as error:
        raise unreadable_slide(path, OSError(error.errno, f"{which}{error.strerror}")) from error
    except ValueError as error:
        raise unreadable_slide(path, error) from error
