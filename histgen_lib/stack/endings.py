"""How a server of this machine ended, and whether what ended it may pass or a person has to mend it."""

from __future__ import annotations

import errno
import re
import signal
from pathlib import Path

_SHELL_SIGNAL = 128
"""What programs that catch a signal add to its number (Java does, shells do)."""
_NO_ROOM = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.EIO}
)
_PASSES = re.compile(
    r"already in use|No space left on device|Disk quota exceeded|Cannot allocate memory|insufficient memory"
    r"|OutOfMemory|bad_alloc|unable to create (native )?thread|Too many open files|Resource temporarily"
    r"|Failed to acquire lock on file|Input/output error"
    r"|Stub process|stub process|Failed to initialize stub|Python model stub",
    re.IGNORECASE,
)
"""What Kafka, Java and tritonserver write when a port is taken, room is lacking, another broker is just
ending, or a model's process was killed while it was loaded."""


def how_ended(exit_code: int | None) -> str:
    """Say in words how a process ended, by what `Popen.poll` gives."""
    if exit_code is None:
        return "has not come up in time"
    number = _signal(exit_code)
    if number is None:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(number).name}"
    except ValueError:
        return f"was ended by signal {number}"


def may_pass(exit_code: int | None, told: str, *, was_up: bool) -> bool:
    """Say whether a server that ended, or did not come up (None), may fare better another time.

    So it is if it was killed or is merely slow, if this very server was up before (`was_up`: same program,
    settings and data), or if what it told its log is a cause that passes. Else its settings are wrong.
    """
    slow_or_killed = exit_code is None or exit_code == 0 or _signal(exit_code) is not None
    return slow_or_killed or was_up or bool(_PASSES.search(told))


def no_room(error: OSError) -> bool:
    """Say whether the system lacked room, memory or handles: that may pass."""
    return error.errno in _NO_ROOM


def written_since(log: Path, start: int) -> str:
    """Return what a log has got since it was `start` bytes long."""
    try:
        with log.open("rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _signal(exit_code: int) -> int | None:
    if exit_code < 0:
        return -exit_code
    return exit_code - _SHELL_SIGNAL if exit_code > _SHELL_SIGNAL else None
