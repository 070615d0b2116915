"""Which slides lie in and below a folder, and what else does. Only names are read; no slide is opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from histgen_lib.names import printable
from histgen_lib.slides.formats import (
    DICOM_SUFFIX,
    HAMAMATSU_SUFFIXES,
    MIRAX_SUFFIX,
    SLIDE_SUFFIXES,
    is_slide_name,
    named_parts,
    sidecars_of,
)

UNFINISHED_SUFFIXES = frozenset({".part", ".tmp", ".crdownload", ".partial", ".filepart"})
"""How browsers and copy programs name a file that is not complete yet."""

Why = Literal["other", "hidden", "unfinished", "link", "special", "closed", "mark"]
_WORDS: Mapping[Why, str] = {
    "other": "not named like slides",
    "hidden": "hidden",
    "unfinished": "incomplete copies",
    "link": "links to folders",
    "special": "not regular files",
    "closed": "folders without access",
    "mark": "folder markers",
}
_HIDDEN = (".", "~$")
_MOST_NAMED = 3


@dataclass(frozen=True)
class LeftOut:
    """Something that is not a slide, or that cannot be looked into. `name`: a path or URI, for people."""

    name: str
    why: Why


@dataclass
class Found:
    """What lies below a folder. `slides`: files, and folders with DICOM files, by name."""

    slides: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def find_slides(root: Path) -> Found:
    """Search a folder and all folders below it. Raises OSError if the folder itself cannot be listed.

    Links to folders are not followed. The files that a MIRAX or Hamamatsu slide is stored in, and sidecars,
    are neither slides nor left out.
    """
    found = Found()
    waiting = [(root, _entries(root))]
    while waiting:
        folder, entries = waiting.pop()
        for inside in _look_into(folder, entries, found):
            try:
                waiting.append((inside, _entries(inside)))
            except OSError:
                found.left_out.append(LeftOut(printable(str(inside)), "closed"))
    found.slides.sort()
    found.left_out.sort(key=lambda one: one.name)
    return found


def summary(left_out: Iterable[LeftOut]) -> str:
    """Summarise what was left out: "3 left out: 2 hidden (.a.svs, .b.svs), 1 not regular files (pipe)"."""
    names: dict[Why, list[str]] = {}
    for one in left_out:
        names.setdefault(one.why, []).append(one.name.rstrip("/").rpartition("/")[2] or one.name)
    reasons = [f"{len(found)} {_WORDS[why]} ({_few(found)})" for why, found in sorted(names.items())]
    return f"{sum(map(len, names.values()))} left out: {', '.join(reasons)}"


def counted(counts: Counter[Why]) -> str:
    """Summarise how many were left out for which reason: "2 hidden, 1 not regular files"."""
    return ", ".join(f"{count} {_WORDS[why]}" for why, count in sorted(counts.items()))


def looked_for() -> str:
    """List the suffixes of slides."""
    return ", ".join(sorted(SLIDE_SUFFIXES))


def _few(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _look_into(folder: Path, entries: list[os.DirEntry[str]], found: Found) -> Iterator[Path]:
    """Sort out what lies directly in `folder`; yield the folders in it."""
    slides = {entry.name for entry in entries if _is_slide(entry)}
    belonging = _belonging(folder, slides)
    for entry in entries:
        path = folder / entry.name
        if entry.name in slides:
            found.slides += [path] if path.suffix.lower() != DICOM_SUFFIX else []
        elif entry.name in belonging:
            continue
        elif why := _why_not(entry):
            found.left_out.append(LeftOut(printable(str(path)), why))
        else:
            yield path
    if any(Path(name).suffix.lower() == DICOM_SUFFIX for name in slides):
        found.slides.append(folder)


def _is_slide(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(_HIDDEN) and is_slide_name(entry.name) and _is(entry.is_file)


def _belonging(folder: Path, slides: set[str]) -> set[str]:
    """Return the names of what belongs to a folder's slides: sidecars, MIRAX folders, Hamamatsu files."""
    names = set[str]()
    for name in slides:
        path = folder / name
        names |= {sidecar.name for sidecar in sidecars_of(path)}
        if path.suffix.lower() == MIRAX_SUFFIX:
            names.add(path.stem)
        elif path.suffix.lower() in HAMAMATSU_SUFFIXES:
            with suppress(OSError):
                names |= {part.name for part in named_parts(path)}
    return names


def _why_not(entry: os.DirEntry[str]) -> Why | None:
    """Return why an entry is left out; None for a folder to look into."""
    if entry.name.startswith(_HIDDEN):
        return "hidden"
    if os.path.splitext(entry.name)[1].lower() in UNFINISHED_SUFFIXES:  # noqa: PTH122 - of very many
        return "unfinished"
    if _is(entry.is_dir):
        return "link" if entry.is_symlink() else None
    return "other" if _is(entry.is_file) else "special"


def _is(kind: Callable[[], bool]) -> bool:
    """Ask whether an entry is of a kind; False where the system cannot tell."""
    try:
        return kind()
    except OSError:
        return False
