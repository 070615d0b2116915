"""Scans a folder tree: which slides it holds, and the state of their files, without opening any slide.

Works on network shares: it lists and stats, and reads only the small index files of slides that are stored in
several files, each once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
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
    """A slide, and the state of each of its files. `missing`: names of files that are still to arrive."""

    path: Path
    files: tuple[State, ...]
    missing: tuple[str, ...] = ()


@dataclass
class Look:
    """The result of one scan.

    `ignored`: how many files are not slides; `closed`: folders that cannot be listed; `links`: to folders.
    """

    candidates: list[Candidate] = field(default_factory=list)
    ignored: int = 0
    closed: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)


class Folder:
    """A folder tree that slides are put into. Links to folders are not followed, hidden names are skipped.

    `without`: places in it to leave out. `since`: when the scan reached `at`, by `clock` (monotonic seconds).
    """

    def __init__(
        self,
        root: Path,
        without: frozenset[Path] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root, self._clock = root, clock
        self._at, self.since = (root, ""), clock()
        self._without = without
        self._named: dict[Path, tuple[State | None, list[Path]]] = {}

    def but(self, without: frozenset[Path]) -> Folder:
        """Return the same folder without some places; a scan of this one may go on meanwhile."""
        return Folder(self.root, without, self._clock)

    def look(self) -> Look:
        """Scan the whole tree. Raises TransientError("watch-unavailable") if the folder cannot be listed."""
        seen = Look()
        try:
            waiting = [(self.root, self._entries(self.root))]
        except OSError as error:
            raise unavailable(self.root, error) from error
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
        """Where the scan is now."""
        folder, name = self._at
        return folder / name

    def _turn_to(self, folder: Path, name: str) -> bool:
        """Note what is looked at next, in case it hangs. Returns True."""
        self._at, self.since = (folder, name), self._clock()
        return True

    def _dicom(self, folder: Path, entries: list[os.DirEntry[str]]) -> list[Candidate]:
        """Return a folder of DICOM files as one slide, but files directly in the root one by one.

        Files of one series have the same content, so they are announced once, whichever comes first.
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
        """List the files that a slide's index names; the index is read again only when it has changed."""
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
    except OSError:  # a circle of links
        return False


def _state(entry: os.DirEntry[str]) -> State | None:
    try:
        stat = entry.stat()
    except OSError:  # deleted meanwhile, or a dangling link
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


def unavailable(root: Path, error: OSError) -> TransientError:
    """Say that a folder of slides cannot be listed now."""
    return TransientError(
        "watch-unavailable",
        f"The folder of slides cannot be listed: {error.strerror or type(error).__name__}.",
        hint=f"Check that {root} exists, that its share is mounted, and that the gateway may read it.",
    )
