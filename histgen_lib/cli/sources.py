"""From arguments to slides: files, folders of slides, DICOM folders and globs."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

from histgen_lib.access.finding import find_slides, looked_for, summary
from histgen_lib.cli.output import err
from histgen_lib.errors import InvalidInputError

BAG_SUFFIXES = frozenset({".parquet", ".h5", ".pt"})


def expand(arguments: Iterable[str]) -> list[Path]:
    """List the slides and bags of `arguments`, in order, each once; for a folder, all slides in and below it.

    Prints on stderr what is left out of a folder. A path that does not exist is kept: opening it gives the
    right error. Raises InvalidInputError: "slide-none-found" for a glob without matches and for an empty
    argument, "slide-is-folder" for a folder without slides.
    """
    found = (path for argument in arguments for path in _expand(argument))
    return list(dict.fromkeys(found))


def is_bag(path: Path) -> bool:
    """Return whether the path names a bag rather than a slide."""
    return path.suffix.lower() in BAG_SUFFIXES


def _expand(argument: str) -> Iterator[Path]:
    if not argument:  # from an unset variable; as a path it would be the current folder
        raise InvalidInputError(
            "slide-none-found", "A slide argument is empty.", hint="Check the variables in the command."
        )
    path = Path(argument)
    if path.is_dir():
        yield from _in_folder(path)
    elif not path.exists() and glob.has_magic(argument):
        matches = sorted(glob.glob(argument))  # noqa: PTH207 - the pattern may be absolute
        if not matches:
            raise InvalidInputError(
                "slide-none-found",
                f"Nothing matches {argument}.",
                hint="Check the pattern. It is relative to the current folder.",
            )
        for match in matches:
            yield from _expand(match)
    else:
        yield path


def _in_folder(folder: Path) -> list[Path]:
    """List the slides of a folder, and print what else it contains."""
    found = find_slides(folder)
    left_out = summary(found.left_out) if found.left_out else ""
    if not found.slides and _holds_dicom(folder):
        return [folder]
    if not found.slides:
        raise InvalidInputError(
            "slide-is-folder",
            f"There is no slide in {folder} or below it{f' ({left_out})' if left_out else ''}.",
            hint=f"File names of slides end in {looked_for()}. Name other slides, and bags, one by one.",
        )
    if left_out:
        err().print(f"{folder}: {left_out}.", style="dim", soft_wrap=True)
    return found.slides


def _holds_dicom(folder: Path) -> bool:
    """Return whether a folder without files named like slides holds a DICOM series."""
    from histgen_lib.slides.formats import is_dicom

    return any(is_dicom(path) for path in folder.iterdir() if path.is_file())
