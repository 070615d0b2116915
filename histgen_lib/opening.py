"""How files that others put in place are opened: only regular files, and without waiting.

A name is looked up without opening what it leads to (O_PATH: a device, a pipe or a socket notices nothing)
and judged. Then that very file is opened, whatever the name leads to by then.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

Judge = Callable[[Path], None]
"""Takes the path that a name leads to, links followed, and raises if that file may not be read."""

PROGRESS: ContextVar[Callable[[], None]] = ContextVar("progress", default=lambda: None)
"""Called for each file that is opened and each piece that is read, to notice a share that hangs."""

LEASE_PATIENCE_S = 3.0
"""How long another program may take to release a file that it locks, once it was asked to."""

MOST_TEXT_BYTES = 256 << 20
"""More than a hundred thousand long reports have."""

_LOOK_S = 0.05
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_PSEUDO = frozenset(
    {
        *(0x9FA0, 0x62656572),  # proc, sys
        *(0x64626720, 0x74726163, 0x73636673, 0x62656570),  # debugfs, tracefs, securityfs, configfs
        *(0x27E0EB, 0x63677270),  # cgroup, cgroup2
        *(0xCAFE4A11, 0xDE5E81E4, 0x6165676C, 0x1CD1),  # bpf, efivarfs, pstore, devpts
        *(0x19800202, 0x6E736673, 0x42494E4D, 0x65735543),  # mqueue, nsfs, binfmt_misc, fusectl
        *(0xF97CFF8C, 0x43415D53, 0x67596969, 0x07655821),  # selinux, smack, rpc_pipefs, resctrl
    }
)
"""File systems (linux/magic.h) whose seemingly regular files are the kernel's output, some without end."""

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def open_ordinary(path: Path, judge: Judge | None = None) -> Iterator[BinaryIO]:
    """Open a regular file for reading: the one that was judged, wherever its name leads by then.

    Raises what `judge` raises, and OSError: for anything but a regular file (EINVAL), for one that another
    program locks (EBUSY), and as `open` does.
    """
    with _found(path, judge) as handle:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise _odd()
        with os.fdopen(_opened(handle), "rb") as file:
            yield file


def read_ordinary(path: Path) -> bytes:
    """Read a text file that a person names. Raises as `open_ordinary`, and EFBIG for one too large."""
    with open_ordinary(path) as file:
        data = file.read(MOST_TEXT_BYTES + 1)
    if len(data) > MOST_TEXT_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {MOST_TEXT_BYTES >> 20} MiB")
    return data


def check_ordinary(path: Path, judge: Judge | None = None) -> bool:
    """Return, without opening it, whether a name is a file; False for a folder. Raises as `open_ordinary`."""
    with _found(path, judge) as handle:
        mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise _odd()
    return stat.S_ISREG(mode)


@contextmanager
def _found(path: Path, judge: Judge | None) -> Iterator[int]:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    PROGRESS.get()()
    try:
        if judge is not None:
            judge(Path(os.readlink(_name_of(handle))))  # noqa: PTH115 - as it is, not resolved again
        if _file_system(handle) in _PSEUDO:
            raise _odd()
        yield handle
    finally:
        os.close(handle)


def _opened(handle: int) -> int:
    """Open what was found; wait a little for a program that has a lease on it (fcntl's F_SETLEASE)."""
    end = time.monotonic() + LEASE_PATIENCE_S
    while True:
        try:
            return os.open(_name_of(handle), _READ)
        except BlockingIOError:
            if time.monotonic() > end:
                raise OSError(errno.EBUSY, "another program has locked it") from None
            time.sleep(_LOOK_S)


def _name_of(handle: int) -> str:
    return f"/proc/self/fd/{handle}"


def _file_system(handle: int) -> int:
    """Return the magic number of the file system: the first field of `struct statfs`."""
    found = (ctypes.c_long * 32)()
    if _libc.fstatfs(handle, ctypes.byref(found)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found[0] & 0xFFFFFFFF


def _odd() -> OSError:
    return OSError(errno.EINVAL, "it is not a regular file")
