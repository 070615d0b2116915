"""Drafts and events lie where no other account can read them, or the error says what to do."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from histgen_lib.bus import BusSettings, open_publisher
from histgen_lib.client.home import close_bus, close_store
from histgen_lib.errors import FatalError
from histgen_lib.storage import StorageSettings, open_store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def a_store(folder: Path) -> StorageSettings:
    settings = StorageSettings(f"file:{folder}")
    open_store(settings).put("reports/a/latest.json", b"{}")
    return settings


@pytest.mark.parametrize("was", [0o755, 0o750, 0o701, 0o777])
@pytest.mark.parametrize("form", ["file:{}", "file://{}", "file://localhost{}"])
def test_an_open_store_is_closed_to_others(tmp_path, was, form):
    a_store(tmp_path / "store")
    (tmp_path / "store").chmod(was)
    close_store(StorageSettings(form.format(tmp_path / "store")))
    assert mode(tmp_path / "store") == 0o700


def test_a_new_folder_is_closed(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new").chmod(0o755)
    close_store(StorageSettings(f"file:{tmp_path / 'new'}"))
    assert mode(tmp_path / "new") == 0o700


def test_a_folder_with_foreign_files_is_refused_and_left_unchanged(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o755)
    (tmp_path / "shared" / "notes.txt").touch()
    with pytest.raises(FatalError, match="holds files that no stack put there") as caught:
        close_store(StorageSettings(f"file:{tmp_path / 'shared'}"))
    assert caught.value.code == "store-open"
    assert "chmod" in caught.value.hint
    assert mode(tmp_path / "shared") == 0o755


@pytest.mark.parametrize(("was", "taken"), [(0o2770, True), (0o700, True), (0o2775, False), (0o771, False)])
def test_a_folder_lent_by_an_administrator_is_used_if_nobody_else_can_enter_it(
    tmp_path, monkeypatch, was, taken
):
    settings = a_store(tmp_path / "store")
    (tmp_path / "store").chmod(was)
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "store").stat().st_uid + 1)
    if taken:
        close_store(settings)
    else:
        with pytest.raises(FatalError, match="another account"):
            close_store(settings)
    assert mode(tmp_path / "store") == was


def test_a_file_system_without_modes_is_refused(tmp_path, monkeypatch):
    settings = a_store(tmp_path / "store")
    (tmp_path / "store").chmod(0o755)
    monkeypatch.setattr(Path, "chmod", lambda *_: (_ for _ in ()).throw(PermissionError))
    with pytest.raises(FatalError, match="keeps it so") as caught:
        close_store(settings)
    assert "umask=077" in caught.value.hint


def test_a_bucket_has_no_modes():
    close_store(StorageSettings("s3://lab/histgen"))


def test_the_embedded_brokers_files_are_closed(tmp_path):
    bus = BusSettings(f"embedded:{tmp_path / 'bus.db'}")
    publisher = open_publisher(bus)
    publisher.publish_raw("t", "k", b"x")
    names = [path for path in tmp_path.iterdir() if path.name.startswith("bus.db")]
    assert len(names) > 1
    for path in names:
        path.chmod(0o664)
    close_bus(bus)
    publisher.close()
    assert {mode(path) for path in names if path.exists()} <= {0o600}


def test_a_remote_broker_has_no_files_here():
    close_bus(BusSettings("kafka://lab:9092"))
