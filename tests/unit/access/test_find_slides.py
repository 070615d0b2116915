"""Which slides lie below a folder, and what is reported about the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from histgen_lib.access.finding import LeftOut, find_slides, summary

HAMAMATSU = "[Virtual Microscope Specimen]\nImageFile=v.jpg\nMapFile=v_map.jpg\n"


def _fill(folder: Path, *names: str, text: str = "") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def _slides(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_slides(folder).slides]


def _left_out(folder: Path) -> dict[str, str]:
    return {Path(one.name).relative_to(folder).as_posix(): one.why for one in find_slides(folder).left_out}


def test_slides_are_found_at_any_depth_each_once(tmp_path: Path):
    _fill(tmp_path, "b.svs", "a/c.TIFF", "a/b/c/d.ndpi", "e.svs ")
    assert _slides(tmp_path) == ["a/b/c/d.ndpi", "a/c.TIFF", "b.svs", "e.svs "]
    assert _left_out(tmp_path) == {}


def test_dicom_files_are_one_slide_given_by_their_folder(tmp_path: Path):
    _fill(
        tmp_path, "1.dcm", "a.svs", "series/1.DCM", "series/2.dcm", "series/deeper/3.dcm", "series/notes.txt"
    )
    assert _slides(tmp_path) == [".", "a.svs", "series", "series/deeper"]
    assert _left_out(tmp_path) == {"series/notes.txt": "other"}


def test_what_belongs_to_a_slide_is_neither_a_slide_nor_left_out(tmp_path: Path):
    _fill(tmp_path, "m.mrxs", "m/Slidedat.ini", "m/Data0.dat", "m/inside.tif", "m/deeper/x.svs")
    _fill(tmp_path, "v.vms", text=HAMAMATSU)
    _fill(tmp_path, "v.jpg", "v_map.jpg", "a.svs", "a.json", "a.svs.json")
    assert _slides(tmp_path) == ["a.svs", "m.mrxs", "v.vms"]
    assert _left_out(tmp_path) == {}


def test_a_mirax_folder_without_its_index_is_looked_into(tmp_path: Path):
    _fill(tmp_path, "m/Slidedat.ini", "m/inside.tif")
    assert _slides(tmp_path) == ["m/inside.tif"]


def test_everything_else_is_left_out_with_its_reason(tmp_path: Path):
    _fill(tmp_path, "notes.txt", "a.parquet", "x.json", "a.svs.part", "b.svs.tmp")
    _fill(tmp_path, ".hidden.svs", ".git/a.svs", "~$a.svs", ".part")
    os.mkfifo(tmp_path / "pipe.svs")
    (tmp_path / "dangling.svs").symlink_to(tmp_path / "nowhere")
    assert _slides(tmp_path) == []
    assert _left_out(tmp_path) == {
        **dict.fromkeys(("notes.txt", "a.parquet", "x.json"), "other"),
        **dict.fromkeys(("a.svs.part", "b.svs.tmp"), "unfinished"),
        **dict.fromkeys((".hidden.svs", ".git", "~$a.svs", ".part"), "hidden"),
        **dict.fromkeys(("pipe.svs", "dangling.svs"), "special"),
    }


def test_circular_links_are_reported_and_not_followed(tmp_path: Path):
    _fill(tmp_path, "a/b/c.svs")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "twice").symlink_to(tmp_path / "a")
    assert _slides(tmp_path) == ["a/b/c.svs"]
    assert _left_out(tmp_path) == {"a/b/up": "link", "self": "special", "twice": "link"}


def test_a_link_to_a_slide_is_that_slide(tmp_path: Path):
    _fill(tmp_path, "store/0815.svs")
    (tmp_path / "a.svs").symlink_to(tmp_path / "store" / "0815.svs")
    assert _slides(tmp_path) == ["a.svs", "store/0815.svs"]


def test_a_folder_without_access_is_reported_and_the_others_are_searched(tmp_path: Path, monkeypatch):
    _fill(tmp_path, "closed/a.svs", "open/b.svs")
    real = os.scandir

    def scandir(path: Path):
        if path == tmp_path / "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert _slides(tmp_path) == ["open/b.svs"]
    assert _left_out(tmp_path) == {"closed": "closed"}


def test_a_missing_folder_raises_the_systems_own_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        find_slides(tmp_path / "none")


def test_names_that_are_not_text_or_that_a_terminal_obeys_can_be_shown(tmp_path: Path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b[2J.txt")).touch()
    (one,) = find_slides(tmp_path).left_out
    assert one.name.endswith("/\\udcff\\x1b[2J.txt")


def test_a_summary_counts_by_reason_and_names_a_few():
    left_out = [LeftOut(f"/x/{name}.txt", "other") for name in "abcd"] + [LeftOut("/x/pipe", "special")]
    assert summary(left_out) == (
        "5 left out: 4 not named like slides (a.txt, b.txt, c.txt, …), 1 not regular files (pipe)"
    )
