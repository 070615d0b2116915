"""Files that somebody holds: by a lease, which who opens may notice, or in the kernel, which holds them."""

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
    """Hold files for oneself (fcntl(2), F_SETLEASE): who opens one waits, unless it opens without waiting."""
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
    """Have the kernel hold whoever opens one of these, as a share does whose server is away (fanotify(7)).

    Nobody but root may. Do not open them yourself.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    group = libc.fanotify_init(_CONTENT | _CLOEXEC, os.O_RDONLY)
    assert group >= 0, os.strerror(ctypes.get_errno())
    try:
        for path in paths:
            wanted = ctypes.c_uint64(_OPEN_PERM)
            marked = libc.fanotify_mark(group, _ADD, wanted, _HERE, os.fsencode(path))
            assert marked == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        os.close(group)  # lets all go
