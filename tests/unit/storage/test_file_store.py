"""The folder adapter under difficulties: killed writers, no hard links, symbolic links, full disks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import until

from histgen_lib.errors import FatalError, InvalidInputError, TransientError
from histgen_lib.storage import ObjectStore, StorageSettings, open_store

RACE = """
import errno, os, sys, time
from pathlib import Path
from histgen_lib.storage import StorageSettings, open_store

folder, key, writers, links = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
start, go = os.pipe()
children = []
for number in range(writers):
    child = os.fork()
    if child == 0:
        os.close(go)
        if links == "no links":
            def refuse(*args):
                raise OSError(errno.EOPNOTSUPP, "no hard links here")
            os.link = refuse
            rename = os.rename
            def hesitate(*args):
                time.sleep(0.02)  # between looking and writing, where the others would get in
                rename(*args)
            os.rename = hesitate
        store = open_store(StorageSettings(f"file:{folder}"))
        data = bytes([65 + number]) * 100_000
        os.read(start, 1)
        os._exit(0 if store.put(key, data) else 1)
    children.append(child)
os.close(start)
os.close(go)
print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""

FED_WRITER = """
import sys
from pathlib import Path
from histgen_lib.storage import StorageSettings, open_store
open_store(StorageSettings(f"file:{sys.argv[1]}")).put("bag", Path(sys.argv[2]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path) -> ObjectStore:
    return open_store(StorageSettings(f"file:{folder}"))


def unfinished(folder: Path) -> list[Path]:
    return sorted((folder / ".incoming").glob("*.part"))


def no_links(*_: object) -> None:
    raise OSError(errno.EPERM, "no hard links here")


@pytest.mark.parametrize("links", ["links", "no links"])
def test_of_twelve_racing_processes_exactly_one_wins(folder: Path, store: ObjectStore, links: str) -> None:
    for turn in range(3):
        key = f"new/folder/{turn}/bag"
        command = [sys.executable, "-c", RACE, str(folder), key, "12", links]
        answers = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=60
        ).stdout.split()
        assert sorted(answers) == ["0"] + ["1"] * 11
        assert store.get(key) == bytes([65 + answers.index("0")]) * 100_000
    assert unfinished(folder) == []


def test_a_killed_writer_leaves_nothing_that_is_listed(
    folder: Path, store: ObjectStore, tmp_path: Path
) -> None:
    """It gets half an object through a pipe, then is killed; what it left is removed once it is old."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen([sys.executable, "-c", FED_WRITER, str(folder), str(pipe)])
    with pipe.open("wb", buffering=0) as feed:
        feed.write(bytes(3 << 20))
        until(lambda: unfinished(folder) and unfinished(folder)[0].stat().st_size, 60, "half a file")
        assert list(store.list()) == []
        assert store.head("bag") is None
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
    assert list(store.list()) == []
    assert store.put("bag", b"whole")
    left = unfinished(folder)
    assert len(left) == 1
    os.utime(left[0], (time.time() - 7200, time.time() - 7200))
    open_store(StorageSettings(f"file:{folder}")).put("other", b"")
    assert unfinished(folder) == []
    assert store.get("bag") == b"whole"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EFBIG])
def test_a_full_or_failing_disk_is_a_transient_error_and_leaves_nothing(
    folder: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, "the disk")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(TransientError) as caught:
            store.put("k", b"v")
    assert caught.value.code == "storage-unavailable"
    assert list(store.list()) == unfinished(folder) == []
    assert store.put("k", b"v")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EXDEV])
def test_denied_access_to_the_folder_is_a_fatal_error(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(FatalError) as caught:
        store.put("k", b"v")
    assert caught.value.code == "storage-denied"


def test_an_unmounted_share_is_not_an_empty_store(folder: Path, store: ObjectStore, tmp_path: Path) -> None:
    """Otherwise an outage would look like missing objects, and events would become dead letters."""
    store.put("k", b"v")
    folder.rename(tmp_path / "elsewhere")
    folder.mkdir()
    for act in every_act(store, tmp_path):
        with pytest.raises(FatalError) as caught:
            act()
        assert caught.value.code == "storage-missing"
    assert list(folder.iterdir()) == []
    folder.rmdir()
    (tmp_path / "elsewhere").rename(folder)
    assert store.get("k") == b"v"


def every_act(store: ObjectStore, folder: Path) -> list[Callable[[], object]]:
    return [
        lambda: store.put("k", b""),
        lambda: store.put("k", b"", if_absent=False),
        lambda: store.get("k"),
        lambda: store.find("k"),
        lambda: store.fetch("k", folder / "copy"),
        lambda: list(store.chunks("k")),
        lambda: store.head("k"),
        lambda: list(store.list()),
        lambda: store.delete("k"),
    ]


@pytest.mark.parametrize("link", ["k", "folder"])
def test_symbolic_links_out_of_the_folder_are_not_followed(
    folder: Path, store: ObjectStore, tmp_path: Path, link: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "k").write_bytes(b"secret")
    (folder / link).symlink_to(outside / "k" if link == "k" else outside)
    key = "k" if link == "k" else "folder/k"
    for act in (
        lambda: store.put(key, b"", if_absent=False),
        lambda: store.get(key),
        lambda: store.fetch(key, tmp_path / "copy"),
        lambda: store.head(key),
        lambda: store.delete(key),
    ):
        with pytest.raises(FatalError) as caught:
            act()
        assert caught.value.code == "storage-denied"
    assert list(store.list()) == []
    assert (outside / "k").read_bytes() == b"secret"


def test_the_folder_itself_may_be_reached_through_a_symbolic_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    folder.symlink_to(tmp_path / "disk")
    store = open_store(StorageSettings(f"file:{folder}"))
    assert store.put("a/b", b"v")
    assert (tmp_path / "disk" / "a" / "b").read_bytes() == b"v"
    assert store.uri("a/b") == (folder / "a" / "b").as_uri()


def test_a_key_below_another_is_refused(store: ObjectStore) -> None:
    store.put("a/b", b"")
    for key in ("a", "a/b/c", "a/b/c/d"):
        for if_absent in (True, False):
            with pytest.raises(InvalidInputError) as caught:
                store.put(key, b"", if_absent=if_absent)
            assert caught.value.code == "object-key"
        assert store.head(key) is None


def test_without_hard_links_a_key_that_is_a_folder_is_refused_too(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links)
    assert store.put("a/b", b"1")
    assert not store.put("a/b", b"2")
    with pytest.raises(InvalidInputError):
        store.put("a", b"")
    assert store.get("a/b") == b"1"


def test_deleting_the_last_object_of_a_folder_removes_the_folder(folder: Path, store: ObjectStore) -> None:
    store.put("attempts/tiler/e-1/1", b"")
    store.put("attempts/reporter/e-1/1", b"")
    store.delete("attempts/tiler/e-1/1")
    assert [path.name for path in (folder / "attempts").iterdir()] == ["reporter"]
    store.delete("attempts/reporter/e-1/1")
    assert [path.name for path in folder.iterdir()] == [".incoming"]


@pytest.mark.parametrize("call", ["mkdir", "link"])
def test_an_obstacle_that_has_gone_does_not_make_a_key_invalid(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Another process creates a folder or an object and removes it again between two of our calls."""
    real, failures = getattr(os, call), [FileExistsError(errno.EEXIST, "just now")]

    def lose_once(*args: object, **more: object) -> None:
        if failures:
            raise failures.pop()
        real(*args, **more)

    monkeypatch.setattr(os, call, lose_once)
    assert store.put("attempts/tiler/e-1/1", b"v")
    assert failures == []
    assert store.get("attempts/tiler/e-1/1") == b"v"


def test_an_object_and_its_folders_are_flushed_before_put_returns(
    folder: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file before it gets its name; its folder, and the folder of each new folder, afterwards."""
    flushed = []
    real = os.fsync

    def watch(handle: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink())
        real(handle)

    monkeypatch.setattr(os, "fsync", watch)
    store.put("a/b/k", b"v")
    assert flushed[-1] == folder / "a" / "b"
    assert {folder, folder / "a"} <= set(flushed)
    assert [path.suffix for path in flushed].count(".part") == 1
    flushed.clear()
    assert not store.put("a/b/k", b"other"), "another may have written it, and not have flushed it yet"
    assert flushed == [folder / "a" / "b"]


def test_files_without_a_valid_key_are_not_listed(folder: Path, store: ObjectStore) -> None:
    store.put("slides/a", b"")
    os.close(os.open(os.fsencode(folder) + b"/slides/\xff", os.O_CREAT))
    (folder / "slides" / "line\nbreak").touch()
    os.mkfifo(folder / "slides" / "pipe")
    assert [info.key for info in store.list()] == ["slides/a"]
