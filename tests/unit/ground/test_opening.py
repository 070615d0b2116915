"""A file is opened without waiting, and only if it is a regular one."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from histgen_lib import opening
from histgen_lib.opening import check_ordinary, open_ordinary


def refusal(path: Path) -> int | None:
    with pytest.raises(OSError) as caught, open_ordinary(path):  # noqa: PT011 - its errno is checked
        pass
    return caught.value.errno


def test_a_regular_file_is_read_by_any_of_its_names(tmp_path):
    (tmp_path / "a").write_bytes(b"slide")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        with open_ordinary(tmp_path / name) as file:
            assert file.read() == b"slide"
        assert check_ordinary(tmp_path / name)


def test_a_folder_is_distinguished_from_a_file(tmp_path):
    assert not check_ordinary(tmp_path)
    assert refusal(tmp_path) == errno.EINVAL


@pytest.mark.parametrize(
    "name", ["/dev/zero", "/dev/tty", "/proc/self/mem", "/proc/meminfo", "/sys/kernel/profiling"]
)
def test_files_that_the_kernel_generates_are_refused(tmp_path, name):
    (tmp_path / "link").symlink_to(name)
    for path in (Path(name), tmp_path / "link"):
        assert refusal(path) == errno.EINVAL


def test_pipes_and_sockets_are_refused_without_waiting_for_their_other_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    assert {refusal(Path("pipe")), refusal(Path("socket"))} == {errno.EINVAL}


def test_missing_files_raise_the_systems_errors(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    found = [refusal(tmp_path / name) for name in ("no", "loop", "n" * 300)]
    assert found == [errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG]


def test_the_judge_learns_where_a_name_leads_before_anything_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    seen = []

    def judge(real: Path) -> None:
        seen.append(real)
        raise PermissionError(errno.EPERM, "no")

    with pytest.raises(PermissionError), open_ordinary(tmp_path / "link", judge):
        pass
    assert seen == [(tmp_path / "pipe").resolve()]


def test_a_link_that_changes_after_it_was_judged_is_not_followed(tmp_path):
    (tmp_path / "a").write_bytes(b"judged")
    (tmp_path / "b").write_bytes(b"another")
    (tmp_path / "link").symlink_to("a")

    def judge(real: Path) -> None:
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to("b")

    with open_ordinary(tmp_path / "link", judge) as file:
        assert file.read() == b"judged"


def test_a_file_that_another_program_locks_is_requested_and_then_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "LEASE_PATIENCE_S", 0.0)
    (tmp_path / "a").write_bytes(b"x")
    real, tries = os.open, []

    def held(name, flags, *more):
        if not flags & os.O_PATH:
            tries.append(flags & os.O_NONBLOCK)
            raise BlockingIOError(errno.EAGAIN, "held")
        return real(name, flags, *more)

    monkeypatch.setattr(os, "open", held)
    assert refusal(tmp_path / "a") == errno.EBUSY
    assert tries
    assert all(tries)


def test_no_file_handle_leaks(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir()))
    with open_ordinary(tmp_path / "a"):
        pass
    refusal(tmp_path / "pipe")
    assert len(list(handles.iterdir())) == before
