"""Whether a failure was a temporary lack of resources: disk space, file handles, memory."""

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
    """Whether the system error behind `error` is a temporary lack of resources."""
    return any(isinstance(one, MemoryError) or _number(one) in _PASSES for one in _behind(error))


def was_full(error: BaseException) -> bool:
    """Whether a full disk, or an exceeded quota, is behind `error`."""
    return any(_number(one) in _FULL for one in _behind(error))


def exit_code_of(error: HistgenError) -> int:
    """Return the exit code for an error: "try again" for a lack of resources, else the error's own."""
    return TransientError.exit_code if lacked_resources(error) else error.exit_code


def disk_full() -> TransientError:
    """Return the error for a full disk that no other error describes better."""
    return TransientError(
        "disk-full",
        "A disk is full.",
        hint="Free space on it: `df` and `df -i` show which one. The step is retried automatically.",
    )


def disk_problem(folder: Path) -> str:
    """Return why nothing can be written to a folder's disk; "" if it can."""
    try:
        state = os.statvfs(folder)
    except OSError as error:
        return f"The folder {folder} is not accessible ({error.strerror})."
    if state.f_flag & os.ST_RDONLY:
        return f"The disk of {folder} is read-only."
    if state.f_bavail * state.f_frsize < _LEAST_BYTES:
        return f"The disk of {folder} is full: free space on it."
    if state.f_files and not state.f_favail:
        return f"The disk of {folder} has no inodes left: remove files from it."
    return ""


def _number(error: BaseException) -> int | None:
    """Return the errno of an error; None if it is not a system error."""
    return error.errno if isinstance(error, OSError) else None


def _behind(error: BaseException) -> list[BaseException]:
    """Return an error and its chain of causes."""
    found = [error]
    while (further := found[-1].__cause__ or found[-1].__context__) and len(found) < _MOST_CAUSES:
        found.append(further)
    return found
