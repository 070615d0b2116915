"""Runs a command as a container would: on a read-only root without the checkout, as another account.

`python contained.py SPEC` is what runs as root, in a mount namespace of its own: it mounts what a container
sees, gives up root for good, and becomes the command. SPEC is JSON; see `Contained`.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ACCOUNT = 65532
_SYSTEM = ("usr", "lib", "lib64", "bin", "sbin", "etc", "dev", "proc")
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS of prctl(2)


class Contained:
    """One image's file system. `shown`, `writable`: folders inside, and which of the host they are."""

    def __init__(self, root: Path, shown: Mapping[str, Path], writable: Mapping[str, Path]) -> None:
        self._root, self._shown, self._writable = root, shown, writable
        for folder in writable.values():
            folder.mkdir(exist_ok=True)
            os.chown(folder, ACCOUNT, ACCOUNT)

    def command(self, arguments: Sequence[str], environment: Mapping[str, str], cwd: str) -> list[str]:
        """Return what to start: it becomes the command, under the same process id."""
        spec = {
            "root": str(self._root),
            "shown": {inside: str(folder) for inside, folder in self._shown.items()},
            "writable": {inside: str(folder) for inside, folder in self._writable.items()},
            "arguments": list(arguments),
            "environment": dict(environment),
            "cwd": cwd,
        }
        own_mounts = ["unshare", "--mount", "--propagation", "private"]
        return [*own_mounts, sys.executable, str(Path(__file__).resolve()), json.dumps(spec)]


def why_not() -> str:
    """Return why nothing can be contained here; "" if it can."""
    if os.geteuid() != 0:
        return "only root can mount a read-only root and become another account"
    tried = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return tried.stderr.strip() if tried.returncode else ""


def _mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def _bind(source: Path, target: Path, *, writable: bool = False) -> None:
    target.mkdir(parents=True, exist_ok=True)
    _mount("--rbind", source, target)
    if not writable:
        _mount("-o", "remount,bind,ro", target)


def _enter(spec: dict[str, Any]) -> None:
    root = Path(spec["root"])
    _mount("-t", "tmpfs", "-o", "mode=755", "none", root)
    for name in _SYSTEM:
        source = Path("/") / name
        if source.is_symlink():
            (root / name).symlink_to(source.readlink())
        elif source.is_dir():
            _bind(source, root / name, writable=name in {"dev", "proc"})
    interpreter = Path(os.path.realpath(sys.executable)).parents[1]
    if not interpreter.is_relative_to("/usr"):
        _bind(interpreter, root / interpreter.relative_to("/"))
    for inside, folder in spec["shown"].items():
        _bind(Path(folder), root / inside.lstrip("/"))
    for inside, folder in spec["writable"].items():
        _bind(Path(folder), root / inside.lstrip("/"), writable=True)
    _mount("-o", "remount,ro", root)
    os.chroot(root)
    os.chdir(spec["cwd"])


def _become(account: int) -> None:
    os.setgroups([])
    os.setresgid(account, account, account)
    os.setresuid(account, account, account)
    if ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        sys.exit("cannot give up new privileges")


def main() -> None:
    """Become the command."""
    spec = json.loads(sys.argv[1])
    os.umask(0o022)
    _enter(spec)
    _become(ACCOUNT)
    os.execvpe(spec["arguments"][0], spec["arguments"], spec["environment"])


if __name__ == "__main__":
    main()
