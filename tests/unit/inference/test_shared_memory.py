"""Shared memory is cleared away after processes that have ended, and only after those."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from histgen_lib.inference.shared_memory import Region, clear_orphans, is_orphan, new_name

SHM = Path("/dev/shm")


def name_of_an_ended_process() -> str:
    code = "from histgen_lib.inference.shared_memory import new_name; print(new_name('unittest'))"
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_names_are_unique() -> None:
    assert len({new_name("unittest") for _ in range(10)}) == 10


def test_a_name_tells_whether_its_process_lives() -> None:
    assert not is_orphan(new_name("unittest"))
    assert is_orphan(name_of_an_ended_process())


def test_a_process_with_the_reused_pid_of_another_is_not_mistaken_for_it() -> None:
    *parts, start, number = new_name("unittest").split("-")
    assert is_orphan("-".join([*parts, str(int(start) - 1), number]))


def test_names_of_other_programs_are_left_alone() -> None:
    for name in ("sem.x", "histgen", "histgen-tensors-a-b-c-d", "histgen-tensors-1-999999999-1-0"):
        assert not is_orphan(name)


def test_orphans_are_removed_and_nothing_else() -> None:
    orphan, stranger = SHM / name_of_an_ended_process(), SHM / "histgen-unittest-of-someone"
    mine = Region("unittest", 4096)
    orphan.write_bytes(b"x")
    stranger.write_bytes(b"x")
    try:
        clear_orphans("unittest")
        assert not orphan.exists()
        assert stranger.exists()
        assert (SHM / mine.name).exists()
    finally:
        stranger.unlink()
        mine.close()
    assert not (SHM / mine.name).exists()


def test_a_region_is_for_its_owner_alone() -> None:
    region = Region("unittest", 4096)
    assert (SHM / region.name).stat().st_mode & 0o077 == 0
    assert (SHM / region.name).stat().st_uid == os.getuid()
    region.close()
