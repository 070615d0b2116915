"""Copies of slides: fetched once, bounded, never removed while they are read, and sound after a crash."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from waiting import until

from histgen_lib.access.scratch import Scratch
from histgen_lib.errors import FatalError, InvalidInputError, TransientError

KB = 1000


def writing(size: int, calls: list[Path] | None = None):
    def fetch(path: Path) -> None:
        if calls is not None:
            calls.append(path)
        path.write_bytes(b"x" * size)

    return fetch


def hold(scratch: Scratch, name: str, size: int = KB, calls: list[Path] | None = None) -> bytes:
    with scratch.holding(name, f"{name}.svs", size, writing(size, calls)) as path:
        assert path.name == f"{name}.svs"
        return path.read_bytes()


def copies(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*/*.svs")}


def test_a_copy_is_fetched_once_and_kept(tmp_path):
    scratch, calls = Scratch(tmp_path, 10 * KB), []
    for _ in range(3):
        assert len(hold(scratch, "a", calls=calls)) == KB

    assert len(calls) == 1
    assert len(hold(Scratch(tmp_path, 10 * KB), "a", calls=calls)) == KB
    assert len(calls) == 1, "another process finds it there"


def test_another_state_of_the_original_is_another_copy(tmp_path):
    scratch = Scratch(tmp_path, 10 * KB)
    with (
        scratch.holding("s3://b/a|1", "a.svs", 3, writing(3)) as old,
        scratch.holding("s3://b/a|2", "a.svs", 4, writing(4)) as new,
    ):
        assert (len(old.read_bytes()), len(new.read_bytes())) == (3, 4)


def test_the_longest_unused_copies_make_room(tmp_path):
    scratch = Scratch(tmp_path, 3 * KB)
    for name in ("a", "b", "c", "a", "d"):
        hold(scratch, name)

    assert copies(tmp_path) == {"c", "a", "d"}
    assert len(list(tmp_path.glob("*.lock"))) == 3


def test_a_copy_that_is_being_read_stays(tmp_path):
    scratch, other = Scratch(tmp_path, 2 * KB), Scratch(tmp_path, 2 * KB)
    with scratch.holding("a", "a.svs", KB, writing(KB)) as path:
        for name in ("b", "c", "d"):
            hold(other, name)
        assert len(path.read_bytes()) == KB


def test_a_copy_larger_than_the_limit_is_removed_after_reading(tmp_path):
    scratch = Scratch(tmp_path, KB)
    assert len(hold(scratch, "huge", 5 * KB)) == 5 * KB

    assert copies(tmp_path) == set()


def test_a_fetch_that_fails_leaves_nothing_and_is_tried_again(tmp_path):
    scratch = Scratch(tmp_path, 10 * KB)

    def missing(path: Path) -> None:
        raise InvalidInputError("object-missing", "Gone.")

    with pytest.raises(InvalidInputError), scratch.holding("a", "a.svs", KB, missing):
        pass
    assert copies(tmp_path) == set()
    assert len(hold(scratch, "a")) == KB


def test_a_full_disk_is_waited_for_and_other_faults_are_not(tmp_path):
    scratch = Scratch(tmp_path, 10 * KB)

    def failing(number: int):
        def fetch(path: Path) -> None:
            raise OSError(number, os.strerror(number))

        return fetch

    with pytest.raises(TransientError) as full, scratch.holding("a", "a.svs", KB, failing(28)):
        pass
    assert full.value.code == "scratch-full"
    with pytest.raises(FatalError) as broken, scratch.holding("a", "a.svs", KB, failing(30)):
        pass
    assert broken.value.code == "scratch-unwritable"


def test_a_folder_that_cannot_be_created_is_reported(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FatalError) as caught:
        Scratch(tmp_path / "file" / "scratch", KB)
    assert caught.value.code == "scratch-unwritable"


def test_only_its_owner_can_look_into_it(tmp_path):
    hold(Scratch(tmp_path / "scratch", KB), "a", 10)

    assert {
        path.stat().st_mode & 0o077 for path in [tmp_path / "scratch", *(tmp_path / "scratch").glob("*/")]
    } == {0}


def _fetch_for_ever(folder: Path) -> None:
    def fetch(path: Path) -> None:
        path.with_name(f".{path.name}.abc.part").write_bytes(b"half")
        signal.pause()

    with Scratch(folder, 10 * KB).holding("a", "a.svs", KB, fetch):
        pass


def test_what_a_killed_process_left_is_removed_at_the_next_start(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_fetch_for_ever, args=(tmp_path,))
    process.start()
    until(lambda: list(tmp_path.glob("*/.*.part")), 60, "a fetch has begun")
    assert list(Scratch(tmp_path, 10 * KB)._folder.glob("*/.*.part")), "one that still runs is left alone"
    process.kill()
    process.join()
    scratch = Scratch(tmp_path, 10 * KB)

    assert list(tmp_path.glob("*/")) == []
    assert len(hold(scratch, "a")) == KB
