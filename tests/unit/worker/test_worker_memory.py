"""What counts as memory, and whose limits hold."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from histgen_lib.worker import memory
from histgen_lib.worker.memory import MemoryWatch, memory_of

MIB = 1 << 20


def test_memory_is_what_a_process_holds_without_the_files_it_maps(tmp_path: Path):
    """A mapped slide costs nothing that the system could not take back; shared memory does."""
    path = tmp_path / "slide"
    path.write_bytes(bytes(64 * MIB))
    before = memory_of(os.getpid())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) == 0
        assert memory_of(os.getpid()) - before < 32 * MIB
    reserved = mmap.mmap(-1, 1 << 34)
    assert memory_of(os.getpid()) - before < 32 * MIB
    reserved.write(b"\1" * 64 * MIB)
    assert memory_of(os.getpid()) - before >= 60 * MIB
    reserved.close()


def test_a_process_that_is_gone_holds_nothing_and_is_not_watched():
    assert memory_of(None) == 0
    with MemoryWatch(1 << 30, 1.0) as watch:
        pass
    assert not watch.over


def test_a_containers_memory_limit_is_respected(tmp_path: Path):
    """Of its own group or of one above; "max" is none, and neither is a file that is not there."""
    own, tree = tmp_path / "cgroup", tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    own.write_text("1:cpu:/x\n0::/a/b\n")
    (tree / "a" / "memory.max").write_text("4096\n")
    (tree / "a" / "b" / "memory.max").write_text("max\n")
    assert memory._container_bytes(own, tree) == [4096]
    assert memory._container_bytes(tmp_path / "none", tree) == []
