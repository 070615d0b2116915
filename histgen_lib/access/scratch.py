"""A folder for copies of slides that lie elsewhere: bounded, shared by processes, and sound after any crash.

Each copy has a lock file. To fetch or remove a copy takes an exclusive lock, to read it a shared one; the
system releases the locks of a process that dies. Copies are removed when room is needed, the least recently
used first, never while someone reads them. Labels of slides show names, so the folder is private to its
owner.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from histgen_lib.errors import FatalError, TransientError
from histgen_lib.files import sha256_hex

_UNFINISHED = ".part"
"""Suffix of a file that is being fetched (see `histgen_lib.files.atomic_path`)."""


@dataclass(frozen=True)
class _Copy:
    folder: Path
    size_bytes: int
    used_ns: int


class Scratch:
    """Copies in `folder`, which is created; together at most `limit_bytes`, unless a single one is larger.

    Raises TransientError("scratch-full") while there is no room, FatalError("scratch-unwritable").
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        with _translated():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()

    @contextmanager
    def holding(
        self, identity: str, name: str, size_bytes: int, fetch: Callable[[Path], None]
    ) -> Iterator[Path]:
        """Provide a copy called `name` for the duration of the block; `fetch` writes it if it does not exist.

        `identity` names the original and its state: another state is another copy.
        """
        place = self._folder / sha256_hex(identity.encode())[:32]
        lock = self._shared(place, place / name, size_bytes, fetch)
        try:
            yield place / name
        finally:
            lock.close()
            with suppress(OSError):
                self._make_room(0)

    def _shared(self, place: Path, path: Path, size_bytes: int, fetch: Callable[[Path], None]) -> IO[bytes]:
        """Return a shared lock on the copy, fetching it first if necessary."""
        while True:
            with _translated(), _locked(place) as lock:
                assert lock is not None
                if not path.is_file():
                    self._make_room(size_bytes)
                    place.mkdir(mode=0o700, exist_ok=True)
                    fetch(path)
                os.utime(place)
                fcntl.flock(lock, fcntl.LOCK_SH)
                if path.is_file():  # a lock cannot be turned from exclusive to shared in one step
                    return os.fdopen(os.dup(lock.fileno()), "rb")

    def _make_room(self, size_bytes: int) -> None:
        """Remove copies that no one reads until so many more bytes fit, or none is left to remove."""
        copies = sorted(self._copies(), key=lambda copy: copy.used_ns)
        used = sum(copy.size_bytes for copy in copies)
        free = shutil.disk_usage(self._folder).free
        for copy in copies:
            if used + size_bytes <= self._limit and free >= size_bytes:
                return
            with _locked(copy.folder, wait=False) as lock:
                if lock is not None:
                    _remove(copy.folder)
                    used, free = used - copy.size_bytes, free + copy.size_bytes

    def _sweep(self) -> None:
        """Remove what processes that died while fetching left behind."""
        for folder in self._entries():
            with _locked(folder, wait=False) as lock:
                if lock is not None:
                    for part in folder.glob(f".*{_UNFINISHED}"):
                        part.unlink(missing_ok=True)
                    if not any(folder.iterdir()):
                        _remove(folder)
        self._make_room(0)

    def _copies(self) -> Iterator[_Copy]:
        for folder in self._entries():
            with suppress(FileNotFoundError):  # another process removed it
                size = sum(part.stat().st_size for part in folder.iterdir())
                yield _Copy(folder, size, folder.stat().st_mtime_ns)

    def _entries(self) -> list[Path]:
        return [entry for entry in self._folder.iterdir() if entry.is_dir()]


@contextmanager
def _locked(place: Path, *, wait: bool = True) -> Iterator[IO[bytes] | None]:
    """Hold the exclusive lock on a copy; None if `wait` is false and another process has it."""
    path = place.with_suffix(".lock")
    flags = fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
    while True:
        with path.open("ab") as lock:
            try:
                fcntl.flock(lock, flags)
            except BlockingIOError:
                yield None
                return
            if _is(lock, path):  # otherwise it was removed with its copy while we waited
                yield lock
                return


def _is(lock: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove(folder: Path) -> None:
    """Remove a copy and its lock, which the caller holds exclusively."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".lock").unlink(missing_ok=True)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TransientError(
                "scratch-full",
                "There is no room for a copy of the slide.",
                hint="Free some space on the disk of HISTGEN_SCRATCH.",
            ) from error
        raise FatalError(
            "scratch-unwritable",
            f"The folder for copies of slides cannot be used ({error.strerror or type(error).__name__}).",
            hint="Set HISTGEN_SCRATCH to a folder on a local disk that this account may write to.",
        ) from error
