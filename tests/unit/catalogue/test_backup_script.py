"""deploy/backup.sh copies a store that lies in a folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import planted_objects as planted
import pytest

from histgen_lib.catalogue import keys
from histgen_lib.catalogue.audit import Audit
from histgen_lib.storage import INCOMING, StorageSettings, open_store

SCRIPT = Path(__file__).parents[3] / "deploy" / "backup.sh"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Plant a store with every kind of object; one slide is called as a pointer is, another as an option."""
    store = open_store(StorageSettings(f"file:{tmp_path / 'objects'}"))
    for name in ("a", "latest.json", "-n", "two words"):
        planted.scan(store, name)
        planted.bag(store, name)
        planted.draft(store, name)
        store.put(keys.copy_key(f"copy of {name}", name), b"{}")
        store.put(keys.owner_key(name), b"{}")
    planted.draft(store, "C", "a", "two words")
    planted.letter(store, planted.scan(store, "bad"))
    slide, case = keys.ReportOwner("a"), keys.ReportOwner("C", is_case=True)
    for key in (keys.signed_key(slide, "ab" * 32), keys.withdrawn_key(case)):
        store.put(key, b"{}")
    store.put(keys.citation_key(case, slide, "ab" * 32), b"{}")
    Audit(store).append("submitted", "us", {"slide_id": "a"})
    return tmp_path / "objects"


def back_up(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPT), str(folder), str(folder.parent / "copy"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def files(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(INCOMING)}


def test_a_copy_holds_every_object_and_is_its_owners_alone(folder):
    done = back_up(folder)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert files(folder.parent / "copy") == files(folder)
    assert (folder.parent / "copy").stat().st_mode & 0o077 == 0
    assert not list((folder / INCOMING).glob("*")), "nothing is left in the store"


def test_another_run_copies_what_is_new_and_forgets_letters_that_were_replayed(folder):
    back_up(folder)
    copy = folder.parent / "copy"
    (letter,) = (folder / "dead-letter").iterdir()
    letter.unlink()
    store = open_store(StorageSettings(f"file:{folder}"))
    planted.draft(store, "a", data="another scan")
    before = {path: path.stat().st_ino for path in copy.rglob("*.json")}
    changed = folder / "reports" / "a" / "latest.json"
    os.utime(changed, ns=(changed.stat().st_atime_ns, changed.stat().st_mtime_ns + 10**9))
    again = back_up(folder)

    assert again.returncode == 0, again.stderr
    assert files(copy) == files(folder)
    kept = [path for path, inode in before.items() if path.exists() and path.stat().st_ino == inode]
    assert len(kept) >= len(before) - 2, "the rest was not copied again"


def test_a_report_whose_pointer_came_later_is_left_out_and_one_that_has_none_is_kept(folder):
    """The one is not done in the copy; the other is damaged in the store, and a backup mends nothing."""
    store = open_store(StorageSettings(f"file:{folder}"))
    (folder / "reports" / "a" / "latest.json").unlink()
    back_up(folder, "pointers")
    planted.draft(store, "later")
    back_up(folder, "results")
    copied = files(folder.parent / "copy")

    assert [name for name in copied if "later" in name] == []
    assert [name for name in copied if name.startswith("reports/a/")] != []


def test_what_it_cannot_do_it_says(folder):
    assert (back_up(folder, "all").returncode, "no such stage" in back_up(folder, "all").stderr) == (2, True)
    assert back_up(folder / "nowhere").returncode != 0
