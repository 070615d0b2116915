"""One look over a folder tree: which slides lie there, and in what state, told without opening any.

Works on network shares: it lists and stats, and reads nothing but the small index files of slides that are
kept in several files, each once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from histgen_lib.access.finding import UNFINISHED_SUFFIXES
from histgen_lib.errors import TransientError
from histgen_lib.slides.formats import (
    DICOM_SUFFIX,
    HAMAMATSU_SUFFIXES,
    MIRAX_SUFFIX,
    SLIDE_SUFFIXES,
    named_parts,
)
from services.gateway.contents import State


@dataclass(frozen=True)
class Candidate:
    """A slide, and the state of every file it is stored in. `missing`: names of files that have to come."""

    path: Path
    files: tuple[State, ...]
    missing: tuple[str, ...] = ()


@dataclass
class Look:
    """What one look saw.

    `ignored`: files that are no slides; `closed`: folders that let no one in; `links`: to folders.
    """

    candidates: list[Candidate] = field(default_factory=list)
    ignored: int = 0
    closed: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)


class Folder:
    """A folder tree that slides are put into. Links to folders are not followed, hidden names passed over.

    `without`: places in it that are not looked at. `since`: when what is looked at now was begun with.
    """

    def __init__(self, root: Path, without: frozenset[Path] = frozenset()) -> None:
        self.root = root
        self._at, self.since = (root, ""), time.monotonic()
        self._without = without
        self._named: dict[Path, tuple[State | None, list[Path]]] = {}

    def but(self, without: frozenset[Path]) -> Folder:
        """Return the same folder, to be looked over without some places, whoever still looks at this one."""
        return Folder(self.root, without)

    def look(self) -> Look:
        """Look over the whole tree. Raises TransientError("watch-unavailable") if the folder is away."""
        seen = Look()
        try:
            waiting = [(self.root, self._entries(self.root))]
        except OSError as error:
            raise away(self.root, error) from error
        while waiting:
            folder, entries = waiting.pop()
            for path in self._look_into(folder, entries, seen):
                try:
                    waiting.append((path, self._entries(path)))
                except FileNotFoundError:
                    continue
                except OSError:
                    seen.closed.append(path)
        seen.candidates.sort(key=lambda found: found.path)
        return seen

    def _look_into(self, folder: Path, entries: list[os.DirEntry[str]], seen: Look) -> Iterator[Path]:
        """Add the slides directly in `folder`; yield the folders in it that may hold more."""
        files = [entry for entry in entries if self._turn_to(folder, entry.name) and _is_file(entry)]
        slides = {entry.name: entry for entry in files if _suffix(entry.name) in SLIDE_SUFFIXES}
        seen.ignored += len(files) - len(slides)
        dicom = [slides.pop(name) for name in sorted(slides) if _suffix(name) == DICOM_SUFFIX]
        seen.candidates += self._dicom(folder, dicom)
        seen.candidates += [found for entry in slides.values() if (found := self._slide(folder, entry))]
        companions = {PurePath(name).stem for name in slides if _suffix(name) == MIRAX_SUFFIX}
        for entry in entries:
            if entry.name in companions:
                continue
            self._turn_to(folder, entry.name)
            if entry.is_dir(follow_symlinks=False):
                yield folder / entry.name
            elif entry.is_symlink() and _leads_to_folder(entry):
                seen.links.append(folder / entry.name)

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        self._turn_to(folder, "")
        found = _entries(folder)
        return [entry for entry in found if not self._without or folder / entry.name not in self._without]

    @property
    def at(self) -> Path:
        """What is looked at now."""
        folder, name = self._at
        return folder / name

    def _turn_to(self, folder: Path, name: str) -> bool:
        """Note what is looked at next: it may hang."""
        self._at, self.since = (folder, name), time.monotonic()
        return True

    def _dicom(self, folder: Path, entries: list[os.DirEntry[str]]) -> list[Candidate]:
        """Take a folder with DICOM files as one slide; tell files right in the root one by one.

        Files of one series have one content, so that they are announced once, whichever is told of first.
        """
        states = tuple(state for entry in entries if (state := _state(entry)))
        if not states:
            return []
        if folder != self.root:
            return [Candidate(folder, states)]
        return [Candidate(folder / name, states) for name, _, _ in states]

    def _slide(self, folder: Path, entry: os.DirEntry[str]) -> Candidate | None:
        path = folder / entry.name
        self._turn_to(folder, entry.name)
        own = _state(entry)
        if own is None:
            return None
        if _suffix(entry.name) not in (MIRAX_SUFFIX, *HAMAMATSU_SUFFIXES):
            return Candidate(path, (own,))
        named = self._parts_named_by(path, own)
        there = _mirax_files(path) if _suffix(entry.name) == MIRAX_SUFFIX else _states_of(named)
        missing = {part.name for part in named} - {name for name, _, _ in there}
        return Candidate(path, (own, *there), tuple(sorted(missing)))

    def _parts_named_by(self, path: Path, own: State) -> list[Path]:
        """List the files a slide's index names; read again only when the index changed."""
        listing = path.with_suffix("") / "Slidedat.ini" if _suffix(path.name) == MIRAX_SUFFIX else path
        state = own if listing == path else next(iter(_states_of([listing])), None)
        known = self._named.get(path)
        if known is None or known[0] != state:
            try:
                known = (state, named_parts(path))
            except OSError:
                known = (None, [listing])
            self._named[path] = known
        return known[1]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return [entry for entry in found if not _is_unfinished(entry.name)]


def _is_unfinished(name: str) -> bool:
    return name.startswith((".", "~$")) or _suffix(name) in UNFINISHED_SUFFIXES


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].rstrip().lower()  # noqa: PTH122 - ten thousand times a second


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _leads_to_folder(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except OSError:  # in a circle
        return False


def _state(entry: os.DirEntry[str]) -> State | None:
    try:
        stat = entry.stat()
    except OSError:  # it went away since, or is a link to nothing
        return None
    return entry.name, stat.st_size, stat.st_mtime_ns


def _states_of(paths: list[Path]) -> list[State]:
    found = []
    for path in sorted(paths):
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((path.name, stat.st_size, stat.st_mtime_ns))
    return found


def _mirax_files(path: Path) -> list[State]:
    try:
        entries = _entries(path.with_suffix(""))
    except OSError:
        return []
    return sorted(state for entry in entries if _is_file(entry) and (state := _state(entry)))


def away(root: Path, error: OSError) -> TransientError:
    """Say that a folder of slides is not there now."""
    return TransientError(
        "watch-unavailable",
        f"The folder of slides cannot be looked into: {error.strerror or type(error).__name__}.",
        hint=f"Check that {root} is there, that its share is mounted, and that the gateway may read it.",
    )
