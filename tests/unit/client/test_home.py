"""Only one stack at a time lives in a folder, and it records how to reach it."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from histgen_lib.client.home import StackHome, StackRecord, default_home
from histgen_lib.errors import FatalError

RECORD = StackRecord(
    pid=1,
    gateway="http://127.0.0.1:1",
    bus="embedded:/bus.db",
    store="file:/objects",
    store_endpoint=None,
    inference="onnx",
    watch="/inbox",
    roots=("/inbox", "s3://scans"),
)


def test_a_record_of_a_version_without_roots_is_read(tmp_path):
    home = StackHome(tmp_path)
    values = RECORD.to_json()
    del values["roots"]
    home.record_path.write_text(json.dumps(values))
    assert home.read() == replace(RECORD, roots=())


def test_a_second_stack_in_a_folder_is_refused(tmp_path):
    home = StackHome(tmp_path / "home")
    with home.locked():
        assert StackHome(tmp_path / "home").running()
        with pytest.raises(FatalError) as caught, StackHome(tmp_path / "home").locked():
            pass
    assert caught.value.code == "stack-running"


def test_a_stack_that_was_killed_leaves_the_folder_free(tmp_path):
    code = (
        "import os; from pathlib import Path; from histgen_lib.client.home import StackHome\n"
        f"with StackHome(Path({str(tmp_path)!r})).locked(): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9

    assert not StackHome(tmp_path).running()
    with StackHome(tmp_path).locked():
        pass


def test_announcements_of_a_dead_stack_are_removed(tmp_path):
    home = StackHome(tmp_path)
    home.run_dir.mkdir()
    (home.run_dir / "tiler-1.json").write_text("{}")
    with home.locked():
        assert list(home.run_dir.iterdir()) == []


def test_no_other_account_can_read_the_folder(tmp_path):
    with StackHome(tmp_path / "home").locked():
        assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o777, 0o701])
def test_a_home_that_was_open_is_closed_to_others(tmp_path, mode):
    home = StackHome(tmp_path / "home")
    with home.locked():
        pass
    home.folder.chmod(mode)
    with home.locked():
        assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700


def test_a_new_folder_with_waiting_slides_is_closed_to_others(tmp_path):
    (tmp_path / "home" / "inbox").mkdir(parents=True)
    (tmp_path / "home").chmod(0o755)
    with StackHome(tmp_path / "home").locked():
        assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_an_open_folder_with_foreign_files_is_refused_and_left_unchanged(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "notes.txt").touch()
    with pytest.raises(FatalError) as caught, StackHome(folder).locked():
        pass
    assert caught.value.code == "stack-home"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert [entry.name for entry in folder.iterdir()] == ["notes.txt"]


def test_a_folder_of_another_account_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(FatalError) as caught, StackHome(tmp_path).locked():
        pass
    assert caught.value.code == "stack-home"
    assert "another account" in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_the_record_outlives_the_stack(tmp_path):
    with StackHome(tmp_path).locked():
        StackHome(tmp_path).write(RECORD)

    assert StackHome(tmp_path).read() == RECORD
    assert not StackHome(tmp_path).running()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "pid": 1}'])
def test_a_record_of_another_schema_is_ignored(tmp_path, text):
    (tmp_path / "stack.json").write_text(text)

    assert StackHome(tmp_path).read() is None


def test_an_unusable_folder_is_reported_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FatalError) as caught, StackHome(tmp_path / "file" / "home").locked():
        pass
    assert caught.value.code == "stack-home"


def test_the_environment_can_name_the_folder():
    assert default_home({"XDG_DATA_HOME": "/data"}) == Path("/data/histgen")
    assert default_home({"XDG_DATA_HOME": "/data", "HISTGEN_HOME": "/lab"}) == Path("/lab")
