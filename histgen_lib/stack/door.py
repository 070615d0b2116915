"""Where a server of ours listens: at a socket in a folder into which no other account of the machine can go.

A loopback port is open to everybody on the machine, and a secret in a command line can be read by everybody
(docs/decisions/0013).
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

from histgen_lib.errors import FatalError
from histgen_lib.inference import shared_memory

KIND = "door"
_LONGEST_BYTES = 107
"""Of a socket's path: what the kernel's `sun_path` has room for."""
_SOCKET = "grpc:1"


class Door:
    """A socket's place. It is named at once, for those who will connect; `make` makes the folder around it.

    The folder goes with this object, not with its server: nobody can take the name while that is restarted.
    Raises FatalError("triton-door") where no folder for temporary files is safe from other accounts.
    """

    def __init__(self) -> None:
        name = f"{shared_memory.new_name(KIND)}-{token_hex(4)}"
        self.folder = _base(len(f"/{name}/{_SOCKET}")) / name
        self.socket = self.folder / _SOCKET
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)  # at our exit at the latest

    def make(self) -> None:
        """Make the folder, or see that the one of that name is ours. Raises FatalError("triton-door")."""
        try:
            self.folder.mkdir(mode=0o700)
        except FileExistsError:
            state = self.folder.lstat()
            if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o077:
                raise _unsafe(f"{self.folder} was made by somebody else") from None
        except OSError as error:
            raise _unsafe(f"{self.folder} cannot be made ({error.strerror})") from error


def clear_doors() -> None:
    """Remove the folders that processes made which have ended since."""
    for base in _bases():
        for folder in base.glob(f"histgen-{KIND}-*"):
            if shared_memory.is_orphan(folder.name):
                shutil.rmtree(folder, ignore_errors=True)  # another account's stays: it cannot be removed


def _bases() -> Iterator[Path]:
    """Name folders for temporary files; not the login session's, which goes when its user logs out."""
    yield Path(tempfile.gettempdir()).resolve()
    yield Path("/tmp")


def _base(rest_bytes: int) -> Path:
    for base in _bases():
        if len(os.fsencode(base)) + rest_bytes <= _LONGEST_BYTES and _safe(base):
            return base
    raise _unsafe("others may rename what lies there, or its name is too long")


def _safe(base: Path) -> bool:
    """Tell whether nobody else can put a folder of theirs in the place of ours."""
    return base.is_dir() and all(_holds(folder.stat()) for folder in (base, *base.parents))


def _holds(state: os.stat_result) -> bool:
    kept = not state.st_mode & 0o022 or bool(state.st_mode & stat.S_ISVTX)
    return kept and state.st_uid in {0, os.geteuid()}


def _unsafe(why: str) -> FatalError:
    return FatalError(
        "triton-door",
        f"There is no folder for tritonserver's socket that is safe from other accounts: {why}.",
        hint="Set TMPDIR to a folder with a short name that only this account may write to.",
    )
