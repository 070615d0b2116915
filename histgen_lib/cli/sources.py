"""From what a person typed to the slides that are meant: files, folders of slides, DICOM folders, globs."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides.parts import SLIDE_SUFFIXES

BAG_SUFFIXES = frozenset({".parquet", ".h5", ".pt"})


def expand(arguments: Iterable[str]) -> list[Path]:
    """Slides and bags behind `arguments`, in order, each once.

    A path that does not exist is kept: opening it gives the right error.
    Raises InvalidInputError("slide-none-found") for a glob that matches nothing.
    """
    found = (path for argument in arguments for path in _expand(argument))
    return list(dict.fromkeys(found))


def is_bag(path: Path) -> bool:
    """Whether the path names a bag rather than a slide."""
    return path.suffix.lower() in BAG_SUFFIXES


def _expand(argument: str) -> Iterator[Path]:
    path = Path(argument)
    if path.is_dir():
        yield from _in_folder(path)
    elif not path.exists() and glob.has_magic(argument):
        matches = sorted(glob.glob(argument))  # noqa: PTH207 - the pattern may be absolute
        if not matches:
            raise InvalidInputError(
                "slide-none-found",
                f"Nothing matches {argument}.",
                hint="Check the pattern; it is relative to the current folder.",
            )
        for match in matches:
            yield from _expand(match)
    else:
        yield path


def _in_folder(folder: Path) -> Iterator[Path]:
    """List the slides directly in a folder; the folder for its own DICOM files, or if it holds none."""
    children = sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    files = [child for child in children if child.is_file() and child.suffix.lower() in SLIDE_SUFFIXES]
    slides = [file for file in files if file.suffix.lower() != ".dcm"]
    own = [folder] if len(slides) < len(files) else []
    slides += [child for child in children if child.is_dir() and any(child.glob("*.dcm"))]
    yield from [*own, *slides] or [folder]
