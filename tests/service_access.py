"""Access to services under test: their tokens, the addresses they listen on, and the files they write."""

from __future__ import annotations

import errno
from pathlib import Path

from starlette.applications import Starlette

from histgen_lib.runtime.web.address import DoorSettings
from histgen_lib.runtime.web.callers import Callers, OwnToken
from histgen_lib.runtime.web.door import Door

TOKEN = "0123456789abcdef" * 4
"""For services that run in the test's own process."""


def locked(app: Starlette, settings: DoorSettings | None = None) -> Door:
    """Put an application of the test's own process behind the door that `TOKEN` opens."""
    return Door(app, Callers([OwnToken(TOKEN)]), "test", settings)


def bearer(token: str = TOKEN) -> dict[str, str]:
    """Return the authorization header for a token."""
    return {"authorization": f"Bearer {token}"}


def bearer_of(token_file: Path | str) -> dict[str, str]:
    """Return the authorization header for the token in a file."""
    return bearer(Path(token_file).read_text())


def bytes_at(path: Path) -> bytes:
    """Read a file of a running service; nothing of a folder, a socket, or what is gone by now."""
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ENXIO, errno.ENOENT, errno.ESRCH):
            raise
        return b""


def listening(pid: int) -> list[tuple[str, int]]:
    """List the addresses (hexadecimal) and ports a process listens on, from the kernel's tables."""
    open_files = {path.readlink().name for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
    found = []
    for table in ("tcp", "tcp6"):
        for fields in map(str.split, Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]):
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in open_files:
                address, port = fields[1].split(":")
                found.append((address, int(port, 16)))
    return found
