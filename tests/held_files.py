"""Files whose opening blocks: by a lease, or because the kernel holds the call."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_CONTENT, _CLOEXEC, _ADD, _OPEN_PERM, _HERE = 4, 1, 1, 0x00010000, -100  # linux/fanotify.h


@contextmanager
def leased(*paths: Path) -> Iterator[None]:
    """Lock files by leases (fcntl(2), F_SETLEASE): opening one blocks unless it is non-blocking."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    with ExitStack() as held:
        held.callback(signal.signal, signal.SIGIO, before)
        for path in paths:
            handle = os.open(path, os.O_RDWR | os.O_CREAT)
            held.callback(os.close, handle)
            fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield


@contextmanager
def hung(*paths: Path) -> Iterator[None]:
    """Have the kernel block every open of these files, like a share whose server is down (fanotify(7)).

    Requires root. Do not open the files in this process.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    group = libc.fanotify_init(_CONTENT | _CLOEXEC, os.O_RDONLY)
    assert group >= 0, os.strerror(ctypes.get_errno())
    try:
        for path in paths:
            mask = ctypes.c_uint64(_OPEN_PERM)
            marked = libc.fanotify_mark(group, _ADD, mask, _HERE, os.fsencode(path))
            assert marked == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        os.close(group)  # releases all of them
