"""A disk of a few megabytes that a test can fill and free again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


class SmallDisk:
    """A disk at `folder`; `fill` takes every byte and `fill_inodes` every inode."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Use up all free bytes."""
        with self._ballast.open("ab", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(b"\0" * (os.statvfs(self.folder).f_bavail * 4096 or 1))

    def fill_inodes(self) -> None:
        """Use up all free inodes."""
        (self.folder / "names").mkdir(exist_ok=True)
        with suppress(OSError):
            for number in range(1 << 20):
                (self.folder / "names" / f"{number}").touch()

    @property
    def is_filled(self) -> bool:
        """Whether `fill` was called and `free` was not called since."""
        return self._ballast.exists()

    def close(self) -> None:
        """Remount it read-only, as the kernel does with a faulty disk."""
        self._remount("ro")

    def _remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", self.folder], check=True)

    def free(self) -> None:
        """Free the space and make the disk writable."""
        self._remount("rw")
        self._ballast.unlink(missing_ok=True)
        for name in (self.folder / "names").glob("*"):
            name.unlink()


@contextmanager
def small_disk(folder: Path, size_mb: int = 64, *, inodes: int = 0) -> Iterator[SmallDisk]:
    """Mount a small disk for the block; skip the test if mounting fails (it needs root)."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size_mb}m,mode=700" + (f",nr_inodes={inodes}" if inodes else "")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
