"""Runs a command that cannot open its files to others by chmod: `python unshared.py COMMAND…`, under a umask.

Boost.Interprocess, with which Triton's Python backend makes its shared memory, undoes the umask with
`fchmod`, and its mode cannot be set: everybody could read tiles in /dev/shm. A seccomp filter makes the
kernel report success for that call and do nothing. For Linux on x86-64 and ARM; standard library only.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

_CALLS = {"x86_64": (0xC000003E, 91), "aarch64": (0xC00000B7, 52)}
"""AUDIT_ARCH and the number of `fchmod` (linux/audit.h, asm/unistd.h)."""
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ANSWER_ZERO = 0x7FFF0000, 0x00050000


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("count", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def command_unshared(command: list[str]) -> list[str]:
    """Return a command that runs `command` this way. It exits with 78 if the kernel has no such filter."""
    return [sys.executable, "-I", "-S", __file__, *command]


def _without_fchmod() -> None:
    """Make `fchmod` do nothing in this process and all it starts. Raises OSError, KeyError."""
    architecture, number = _CALLS[os.uname().machine]
    steps = b"".join(
        struct.pack("=HBBI", *step)
        for step in (
            (_LOAD_WORD, 0, 0, 4),  # seccomp_data.arch
            (_JUMP_IF_EQUAL, 0, 3, architecture),
            (_LOAD_WORD, 0, 0, 0),  # seccomp_data.nr
            (_JUMP_IF_EQUAL, 0, 1, number),
            (_RETURN, 0, 0, _ANSWER_ZERO),
            (_RETURN, 0, 0, _ALLOW),
        )
    )
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(steps) // 8, steps)
    for call in ((_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _main(command: list[str]) -> None:
    try:
        _without_fchmod()
    except (OSError, KeyError) as error:
        print(
            f"Triton's shared memory cannot be closed to other accounts here: no seccomp filter ({error})."
            " Run the models in the workers instead: histgen up --inference onnx",
            file=sys.stderr,
        )
        sys.exit(78)
    os.execv(command[0], command)


if __name__ == "__main__":
    _main(sys.argv[1:])
