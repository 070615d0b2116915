"""Which software this process runs, found without starting another process."""

from __future__ import annotations

import os
from pathlib import Path

REVISION = "HISTGEN_REVISION"
"""The environment variable in which an image says of which commit it was built."""
UNKNOWN = "unknown"

_ROOT = Path(__file__).resolve().parents[2]


def revision(root: Path = _ROOT) -> str:
    """Return the commit: what the environment says, else what is checked out at `root`, else "unknown"."""
    return os.environ.get(REVISION) or _checked_out(root) or UNKNOWN


def _checked_out(root: Path) -> str:
    """Read a checkout's commit from git's own files; "" if there is none. See gitrepository-layout(5)."""
    try:
        folder = root / ".git"
        if folder.is_file():  # of a worktree, it names the folder
            folder = root / folder.read_text().removeprefix("gitdir:").strip()
        head = (folder / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        named = folder / "commondir"
        shared = folder / named.read_text().strip() if named.is_file() else folder
        return _commit_of(shared, head.removeprefix("ref:").strip())
    except (OSError, ValueError):
        return ""


def _commit_of(shared: Path, name: str) -> str:
    loose, packed = shared / name, shared / "packed-refs"
    if loose.is_file():
        return loose.read_text().strip()
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
