"""Whether what failed lacked what may be had later: room, handles, memory, a disk that can be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from histgen_lib.errors import HistgenError, TransientError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_PASSES = _FULL | {
    *(errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE),
    *(errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ENOBUFS),
    *(errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.ETXTBSY),
}
_MOST_CAUSES = 10
_LEAST_BYTES = 256 << 10


def lacked_resources(error: BaseException) -> bool:
    """Say whether the system's own refusal that is behind `error` is one that passes."""
    return any(isinstance(one, MemoryError) or _number(one) in _PASSES for one in _behind(error))


def was_full(error: BaseException) -> bool:
    """Say whether a disk was full, or somebody's share of it."""
    return any(_number(one) in _FULL for one in _behind(error))


def exit_code_of(error: HistgenError) -> int:
    """Return what a process ends with: a person's to mend only if it is no lack of room that is behind it."""
    return TransientError.exit_code if lacked_resources(error) else error.exit_code


def disk_full() -> TransientError:
    """Say that there is no room, where nobody could say it better."""
    return TransientError(
        "disk-full",
        "There is no room left on a disk that is written to.",
        hint="Make room: `df` and `df -i` say where. It is tried again by itself.",
    )


def disk_problem(folder: Path) -> str:
    """Say what the disk of a folder lacks for whoever wants to write there; "" if it lacks nothing."""
    try:
        state = os.statvfs(folder)
    except OSError as error:
        return f"The folder {folder} is not to be had ({error.strerror})."
    if state.f_flag & os.ST_RDONLY:
        return f"The disk of {folder} cannot be written: it is read-only."
    if state.f_bavail * state.f_frsize < _LEAST_BYTES:
        return f"The disk of {folder} is full: make room on it."
    if state.f_files and not state.f_favail:
        return f"The disk of {folder} has no inodes left: remove files from it."
    return ""


def _number(error: BaseException) -> int | None:
    """Return the system's number of an error; None if it is none of the system's."""
    return error.errno if isinstance(error, OSError) else None


def _behind(error: BaseException) -> list[BaseException]:
    """List an error and what led to it."""
    found = [error]
    while (further := found[-1].__cause__ or found[-1].__context__) and len(found) < _MOST_CAUSES:
        found.append(further)
    return found
