"""Objects as files in a folder: hard links make the first writer win, also between processes.

An object is written to `.incoming`, flushed, and only then given its name, so that no name ever stands for
half an object. The store's folder is one file system, without symbolic links in it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO

from histgen_lib.errors import FatalError, HistgenError, TransientError
from histgen_lib.files import atomic_path
from histgen_lib.storage._port import INCOMING, ObjectInfo, bad_key, check_key, check_prefix, is_key, missing

_ABANDONED_S = 3600.0
"""An unfinished file that was not written to for so long has lost its writer."""

_PLACING_TRIES = 20
"""A try fails only if another process removed the object or its folder at that very moment."""

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_SYNC = {errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP}  # removed meanwhile; a file system without it
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""There is no file of that name."""
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV}
_CLASH = {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}


class FileStore:
    """An ObjectStore over `folder`, which is made.

    With `ours` false it belongs to others and is only read. `clock`: monotonic seconds; `now`: seconds since
    1970, by the clock of the file system.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ours: bool = True,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._clock, self._now = clock, now
        self._root = folder.absolute()
        self._incoming = self._root / INCOMING
        self._ours = ours
        self._next_sweep_s = 0.0
        if ours:
            with _translated():
                self._make()

    def put(self, key: str, data: bytes | Path, *, if_absent: bool = True, content_type: str = "") -> bool:
        """See ObjectStore."""
        target = self._path(key)
        with nullcontext(data) if isinstance(data, bytes) else data.open("rb") as source, _translated():
            self._check_made()
            if if_absent and _file_stat(target):
                _sync_folder(target.parent)  # its writer may not have got that far yet
                return False
            with self._unfinished(source) as path:
                return _place(path, target, if_absent=if_absent)

    def get(self, key: str) -> bytes:
        """See ObjectStore."""
        with self._opened(key) as source:
            return source.read()

    def find(self, key: str) -> bytes | None:
        """See ObjectStore."""
        with self._found(key) as source:
            return None if source is None else source.read()

    def fetch(self, key: str, path: Path) -> None:
        """See ObjectStore."""
        with self._opened(key) as source, atomic_path(path) as unfinished, unfinished.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)

    def chunks(self, key: str, size: int = 1 << 20) -> Iterator[bytes]:
        """See ObjectStore."""
        with self._opened(key) as source:
            while piece := source.read(size):
                yield piece

    def head(self, key: str) -> ObjectInfo | None:
        """See ObjectStore."""
        path = self._path(key)
        with _translated():
            found = _file_stat(path)
            if found is None:
                self._check_there()
        return found and _info(key, found)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        folder = check_prefix(prefix).rpartition("/")[0]
        with _translated():
            self._check_there()
            start = self._path(folder) if folder else self._root
            yield from _walk(start, f"{folder}/" if folder else "", prefix)

    def delete(self, key: str) -> None:
        """See ObjectStore. Folders that this leaves empty go too."""
        path = self._path(key)
        with _translated():
            try:
                path.unlink()
            except _ABSENT:
                self._check_there()
                return
            _remove_empty(path.parent, root=path.parents[key.count("/")])

    def uri(self, key: str) -> str:
        """See ObjectStore."""
        return (self._root / check_key(key)).as_uri()

    def _path(self, key: str) -> Path:
        """Return the file of a key. FatalError if links that others put there lead elsewhere."""
        path = os.path.join(os.path.realpath(self._root), check_key(key))  # noqa: PTH118 - realpath wants text
        if os.path.realpath(path) != path:
            raise FatalError(
                "storage-denied",
                "An object's path leads through a symbolic link, which may leave the store's folder.",
                hint="Remove symbolic links from the folder; to use another disk, mount it as the folder.",
            )
        return Path(path)

    def _make(self) -> None:
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise FatalError(
                "storage-url",
                f"The store's folder {self._root} cannot be made: a file is in its way.",
                hint='Name a folder: "file:/folder".',
            ) from None

    def _check_there(self) -> None:
        """Tell a missing object from a missing store: an unmounted share looks like an empty folder."""
        if self._ours:
            self._check_made()

    def _check_made(self) -> None:
        if not self._incoming.is_dir():
            raise FatalError(
                "storage-missing",
                f"The store's folder {self._root} is no longer there.",
                hint="Mount it, then start again.",
            )

    @contextmanager
    def _opened(self, key: str) -> Iterator[BinaryIO]:
        with self._found(key) as source:
            if source is None:
                raise missing(key)
            yield source

    @contextmanager
    def _found(self, key: str) -> Iterator[BinaryIO | None]:
        path = self._path(key)
        with _translated(), ExitStack() as stack:
            source = None
            try:
                source = stack.enter_context(path.open("rb"))
            except _ABSENT:
                self._check_there()
            yield source

    @contextmanager
    def _unfinished(self, source: bytes | BinaryIO) -> Iterator[Path]:
        """Write to a file that is no object, flushed to disk; it is gone afterwards."""
        self._sweep()
        path = self._incoming / f"{secrets.token_hex(16)}.part"
        try:
            with path.open("xb") as file:
                if isinstance(source, bytes):
                    file.write(source)
                else:
                    shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove, from time to time, what killed writers have left behind."""
        if self._clock() < self._next_sweep_s:
            return
        self._next_sweep_s = self._clock() + _ABANDONED_S
        for path in self._incoming.glob("*.part"):
            with suppress(OSError):
                if self._now() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()


def _walk(folder: Path, base: str, prefix: str) -> Iterator[ObjectInfo]:
    """List by key: a folder's name is compared with its "/", as the keys below it are."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in entries
            )
    except _ABSENT:
        return
    for name in names:
        key = f"{base}{name}"
        if not key.startswith(prefix) or not is_key(key.removesuffix("/")):
            continue
        if name.endswith("/"):
            yield from _walk(folder / name, key, prefix)
        elif found := _file_stat(folder / name):
            yield _info(key, found)


def _info(key: str, found: os.stat_result) -> ObjectInfo:
    # Objects are replaced by other files, so one of these three differs when the bytes do.
    etag = f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"
    return ObjectInfo(key, found.st_size, etag, found.st_mtime)


def _place(unfinished: Path, target: Path, *, if_absent: bool) -> bool:
    """Give a finished file its name, durably."""
    for _ in range(_PLACING_TRIES):
        with suppress(FileNotFoundError):
            _make_folder(target.parent)
            placed = True
            if if_absent:
                placed = _place_first(unfinished, target)
            else:
                unfinished.replace(target)
            _sync_folder(target.parent)
            return placed
    raise FileNotFoundError(errno.ENOENT, "its folder was removed again and again")


def _place_first(unfinished: Path, target: Path) -> bool:
    try:
        target.hardlink_to(unfinished)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return _rename_first(unfinished, target)
        if error.errno != errno.EEXIST:
            raise
        return _taken(target)
    return True


def _rename_first(unfinished: Path, target: Path) -> bool:
    """Do without hard links (FAT, some network shares): all writers of new objects wait for one lock."""
    with (unfinished.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return _taken(target)
        unfinished.rename(target)
    return True


def _taken(target: Path) -> bool:
    """Return False; raise if the name is a folder's, or free again."""
    if S_ISDIR(target.lstat().st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder")
    return False


def _make_folder(folder: Path) -> None:
    """Make `folder` and the folders above it, durably."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not S_ISDIR(
            folder.lstat().st_mode
        ):  # looked at once: another process may remove it between two looks
            raise NotADirectoryError(errno.ENOTDIR, "a file") from None
    _sync_folder(folder.parent)


def _remove_empty(folder: Path, *, root: Path) -> None:
    """Remove `folder` and those above it, below `root`, that are empty."""
    with suppress(OSError):  # not empty, or not there any more
        while folder != root:
            folder.rmdir()
            folder = folder.parent


def _sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to disk, so that they survive a power cut."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _file_stat(path: Path) -> os.stat_result | None:
    """Look a file up; None if there is none, or something else than a file."""
    try:
        found = path.lstat()
    except _ABSENT:
        return None
    return found if S_ISREG(found.st_mode) else None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _translate(error) from error


def _translate(error: OSError) -> HistgenError:
    if error.errno in _CLASH:
        return bad_key()
    if error.errno in _DENIED:
        return FatalError(
            "storage-denied",
            f"The system refuses to read or write a file of the store ({_name(error.errno)}).",
            hint="Let this user read and write all of the folder, which has to be on one file system.",
        )
    return _unavailable(error.errno)


def _unavailable(number: int | None) -> TransientError:
    return TransientError(
        "storage-unavailable",
        f"The store's folder cannot be used now ({_name(number)}).",
        hint="Check that its disk is mounted and not full; then try again.",
    )


def _name(number: int | None) -> str:
    return errno.errorcode.get(number or 0, "no reason given")
