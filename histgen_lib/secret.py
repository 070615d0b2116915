"""Secrets that keep out other accounts of a machine: files that only their owner can read."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from histgen_lib.errors import FatalError

OWNER_ONLY = 0o077
"""The umask of all processes of a stack: logs, broker, drafts and memory are private."""

_MOST_BYTES = 4096
"""Longer than any secret; what is longer is cut off, and opens nothing."""
_NEW = "Delete the file; a new secret is created at the next start."
_PROVIDED = (
    "Put the secret into a file that only its owner (or root) and the service's group can read (chmod 640)."
)


def own_secret(path: Path) -> str:
    """Return the secret in `path`, 64 hexadecimal digits; create one that only its owner can read if missing.

    Several processes that create it at once all return the same one. Raises FatalError("secret-exposed") for
    a file of another account or one that others can read, FatalError("secret-unusable") if it cannot be read.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_secret(path)
        return read_secret(path)
    except OSError as error:
        raise _unusable_secret(path, error.strerror or type(error).__name__, _NEW) from error


def read_secret(path: Path) -> str:
    """Return the secret in `path`. Raises OSError if there is none, FatalError as `own_secret`."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as held:
        state = _state(held, path, _NEW)
        if state.st_uid != os.geteuid() or state.st_mode & 0o077:
            raise _exposed_secret(path, _NEW)
        return _held(held, path, _NEW)


def given_secret(path: Path, *, most_bytes: int = _MOST_BYTES) -> str:
    """Return a secret that somebody else put there: an administrator, or Kubernetes as a mounted Secret.

    Such a file may be reached through links, belong to root, and be readable by a group, but never by
    everybody. Raises FatalError: "secret-exposed", "secret-unusable".
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as held:
            state = _state(held, path, _PROVIDED)
            if state.st_uid not in {0, os.geteuid()} or state.st_mode & 0o027:
                raise _exposed_secret(path, _PROVIDED)
            return _held(held, path, _PROVIDED, most_bytes)
    except OSError as error:
        raise _unusable_secret(path, error.strerror or type(error).__name__, _PROVIDED) from error


def _state(held: BinaryIO, path: Path, hint: str) -> os.stat_result:
    state = os.fstat(held.fileno())
    if not stat.S_ISREG(state.st_mode):
        raise _unusable_secret(path, "it is not a regular file", hint)
    return state


def _held(held: BinaryIO, path: Path, hint: str, most_bytes: int = _MOST_BYTES) -> str:
    secret = held.read(most_bytes).decode("ascii", errors="replace").strip()
    if not secret:
        raise _unusable_secret(path, "it is empty", hint)
    return secret


def _make_secret(path: Path) -> None:
    """Write a complete file beside it and link it: the name never leads to half a secret."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(os.urandom(32).hex())
            file.flush()
            os.fsync(handle)
        with suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)


def _exposed_secret(path: Path, hint: str) -> FatalError:
    return FatalError(
        "secret-exposed",
        f"{path} holds a secret that other accounts of this machine can read or change.",
        hint=hint,
    )


def _unusable_secret(path: Path, why: str, hint: str) -> FatalError:
    return FatalError("secret-unusable", f"The secret in {path} cannot be used: {why}.", hint=hint)
