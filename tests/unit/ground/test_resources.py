"""Lack of room is known as such behind whatever it was wrapped into, and said of the disk that lacks it."""

from __future__ import annotations

import errno
import os

import pytest
from small_disk import small_disk

from histgen_lib.errors import FatalError
from histgen_lib.resources import disk_problem, exit_code_of, lacked_resources, was_full


def wrapped(number: int) -> FatalError:
    try:
        try:
            raise OSError(number, os.strerror(number))
        except OSError:
            raise FatalError("scratch-unwritable", "No.") from None
    except FatalError as error:
        return error


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.EROFS, errno.EIO]
)
def test_what_a_process_ends_with_for_lack_of_room_is_no_matter_for_a_person(number):
    assert lacked_resources(wrapped(number))
    assert exit_code_of(wrapped(number)) == 75


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.ENOTDIR])
def test_a_refusal_is(number):
    assert not lacked_resources(wrapped(number))
    assert exit_code_of(wrapped(number)) == 78


def test_only_a_full_disk_is_one():
    assert was_full(wrapped(errno.ENOSPC))
    assert not was_full(wrapped(errno.EIO))
    assert not was_full(MemoryError())


def test_it_is_said_what_a_disk_lacks(tmp_path):
    assert disk_problem(tmp_path) == ""
    assert "is not to be had" in disk_problem(tmp_path / "absent")
    with small_disk(tmp_path / "bytes", 1) as disk:
        disk.fill()
        assert disk_problem(disk.folder) == f"The disk of {disk.folder} is full: make room on it."
        disk.free()
        assert disk_problem(disk.folder) == ""
    with small_disk(tmp_path / "names", 1, inodes=50) as disk:
        disk.fill_inodes()
        assert "no inodes left" in disk_problem(disk.folder)
