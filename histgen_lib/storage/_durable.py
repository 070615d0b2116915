"""Files that get their names durably and once: what the folder adapter rests on. All of it raises OSError."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG

_PLACING_TRIES = 20
"""Each is lost only to another process that removed the object or its folder at that very moment."""

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_SYNC = {errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP}  # removed meanwhile; a file system without it
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""There is no file of that name."""


def place(unfinished: Path, target: Path, *, if_absent: bool) -> bool:
    """Give a finished file its name, durably."""
    for _ in range(_PLACING_TRIES):
        with suppress(FileNotFoundError):
            make_folder(target.parent)
            placed = True
            if if_absent:
                placed = _place_first(unfinished, target)
            else:
                unfinished.replace(target)
            sync_folder(target.parent)
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
    """Do without hard links (FAT, some network shares): all who write a new object wait for one lock."""
    with (unfinished.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return _taken(target)
        unfinished.rename(target)
    return True


def _taken(target: Path) -> bool:
    """Return False; raise if it is a folder that has the name, or if it is free again."""
    if S_ISDIR(target.lstat().st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder")
    return False


def make_folder(folder: Path) -> None:
    """Make `folder` and the folders above it, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not S_ISDIR(
            folder.lstat().st_mode
        ):  # looked at once: another process may remove it between two looks
            raise NotADirectoryError(errno.ENOTDIR, "a file") from None
    sync_folder(folder.parent)


def remove_empty(folder: Path, *, root: Path) -> None:
    """Remove `folder` and those above it, up to `root`, that hold nothing."""
    with suppress(OSError):  # not empty, or not there any more
        while folder != root:
            folder.rmdir()
            folder = folder.parent


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` survive a power cut."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def file_stat(path: Path) -> os.stat_result | None:
    """Look a file up; None if there is none, or something that is no file."""
    try:
        found = path.lstat()
    except ABSENT:
        return None
    return found if S_ISREG(found.st_mode) else None
