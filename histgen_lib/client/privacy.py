"""Folders and files that drafts, events and secrets lie in: they are this account's alone, or not used."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from histgen_lib.bus import BusSettings
from histgen_lib.errors import FatalError
from histgen_lib.storage import INCOMING, StorageSettings, folder_of

_OTHERS, _ANYBODY = 0o077, 0o007
ANOTHERS = "belongs to another account"


def close_to_others(path: Path, *, ours: Callable[[], bool]) -> str:
    """Take from others what they may do in a folder, or with a file; say why that cannot be, or "".

    What holds other things than `ours` is not touched: those may be for others. Raises OSError.
    """
    state = path.stat()
    if state.st_uid != os.geteuid():
        return ANOTHERS
    if not state.st_mode & _OTHERS:
        return ""
    if not ours():
        return "is open to other accounts, and holds what no stack left there"
    with suppress(OSError):
        path.chmod(stat.S_IMODE(state.st_mode) & ~_OTHERS)
    if path.stat().st_mode & _OTHERS:
        return "is open to other accounts, and its file system keeps it so"
    return ""


def close_store(storage: StorageSettings) -> None:
    """Close a store's folder, wherever it lies. Raises OSError, FatalError("store-open")."""
    if folder := folder_of(storage):
        _require(folder, close_to_others(folder, ours=lambda: _is_store(folder)), "Give it another --store.")


def close_bus(bus: BusSettings) -> None:
    """Close the embedded broker's file, and those that SQLite has beside it. Raises as `close_store`."""
    if not bus.url.startswith("embedded:"):
        return
    for ending in ("", "-wal", "-shm"):
        path = Path(bus.url.removeprefix("embedded:") + ending)
        if path.exists():
            _require(path, close_to_others(path, ours=lambda: True), "Give it another --broker.")


def _is_store(folder: Path) -> bool:
    return (folder / INCOMING).is_dir() or not any(folder.iterdir())


def _require(path: Path, why: str, other: str) -> None:
    """Refuse what others may look into. An administrator may have lent us what nobody else can enter."""
    if not why or (why == ANOTHERS and not path.stat().st_mode & _ANYBODY):
        return
    raise FatalError(
        "store-open",
        f"{path} {why}: drafts and events in it are nobody else's business.",
        hint=f"Take from others what they may do there (chmod go-rwx; mount it with umask=077). {other}",
    )
