"""A lack of resources is recognised whatever error it is wrapped in, and a disk's problem is named."""

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
def test_a_lack_of_resources_is_temporary(number):
    assert lacked_resources(wrapped(number))
    assert exit_code_of(wrapped(number)) == 75


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.ENOTDIR])
def test_a_refused_permission_is_not_temporary(number):
    assert not lacked_resources(wrapped(number))
    assert exit_code_of(wrapped(number)) == 78


def test_only_a_full_disk_is_called_full():
    assert was_full(wrapped(errno.ENOSPC))
    assert not was_full(wrapped(errno.EIO))
    assert not was_full(MemoryError())


def test_a_disks_problem_is_named(tmp_path):
    assert disk_problem(tmp_path) == ""
    assert "is not accessible" in disk_problem(tmp_path / "absent")
    with small_disk(tmp_path / "bytes", 1) as disk:
        disk.fill()
        assert disk_problem(disk.folder) == f"The disk of {disk.folder} is full: free space on it."
        disk.free()
        assert disk_problem(disk.folder) == ""
    with small_disk(tmp_path / "names", 1, inodes=50) as disk:
        disk.fill_inodes()
        assert "no inodes left" in disk_problem(disk.folder)
