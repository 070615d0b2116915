"""A server's socket lies where no other account can reach it, on a path short enough for a socket."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from histgen_lib.errors import FatalError
from histgen_lib.stack import triton
from histgen_lib.stack.triton import PrivateSocket


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make sockets' folders lie in a folder of the test's, and nowhere else."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(triton, "_bases", lambda: iter([place]))
    return place


def refusal(act: object) -> FatalError:
    with pytest.raises(FatalError) as caught:
        act()  # type: ignore[operator]
    assert caught.value.code == "triton-door"
    assert "TMPDIR" in caught.value.hint
    return caught.value


def test_the_folder_is_for_its_owner_and_is_removed_with_its_object(base: Path) -> None:
    place = PrivateSocket()
    place.make()
    place.make()  # again after a restart
    assert place.folder.stat().st_mode & 0o777 == 0o700
    assert place.folder.parent == base
    del place
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("plant", ["open to others", "a link", "a file"])
def test_a_folder_made_by_somebody_else_is_not_used(base: Path, plant: str) -> None:
    place = PrivateSocket()
    if plant == "a link":
        place.folder.symlink_to("/tmp")
    elif plant == "a file":
        place.folder.touch()
    else:
        place.folder.mkdir()
        place.folder.chmod(0o755)
    refusal(place.make)


def test_a_folder_in_which_others_can_rename_files_is_not_used(base: Path) -> None:
    base.chmod(0o777)
    refusal(PrivateSocket)
    base.chmod(0o1777)
    PrivateSocket()


def test_a_folder_with_a_long_path_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert len(os.fsencode(PrivateSocket().socket)) <= 107
