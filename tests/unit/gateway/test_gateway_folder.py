"""One scan finds the slides in a folder, their state, and which of their files are missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gateway_fakes import GatewayLab

from histgen_lib.errors import TransientError
from services.gateway import folder as folder_module
from services.gateway.folder import Candidate, Folder

MIRAX = "[DATAFILE]\nFILE_COUNT=1\nFILE_0=Data0.dat\n"
HAMAMATSU = "[Virtual Microscope Specimen]\nImageFile=v.jpg\nMapFile=v_map.jpg\n"


def _seen(lab: GatewayLab) -> dict[str, Candidate]:
    look = Folder(lab.folder).look()
    return {str(found.path.relative_to(lab.folder)): found for found in look.candidates}


def test_slides_are_found_at_any_depth_with_size_and_time(lab: GatewayLab):
    path = lab.file("2026/01/a.SVS", b"12345")
    (found,) = _seen(lab).values()
    assert found == Candidate(path, (("a.SVS", 5, path.stat().st_mtime_ns),))


def test_other_files_and_unfinished_copies_are_skipped(lab: GatewayLab):
    for name in (
        *(".a.svs", "~$a.svs", "a.svs.part", "a.svs.tmp", "a.svs.crdownload", ".hidden/a.svs"),
        *("a.json", "a.svs.json", "readme.txt", "a"),
    ):
        lab.file(name)
    look = Folder(lab.folder).look()
    assert look.candidates == []
    assert look.ignored == 4


def test_mirax_is_one_slide_with_all_its_files(lab: GatewayLab):
    for name, text in (("Slidedat.ini", MIRAX), ("Data0.dat", "0"), ("Index.dat", "i"), ("inside.tif", "t")):
        lab.file(f"m/{name}", text)
    lab.file("m.mrxs")
    seen = _seen(lab)
    assert list(seen) == ["m.mrxs"]
    assert [name for name, _, _ in seen["m.mrxs"].files] == [
        "m.mrxs",
        "Data0.dat",
        "Index.dat",
        "Slidedat.ini",
        "inside.tif",
    ]
    assert seen["m.mrxs"].missing == ()


def test_mirax_waits_for_its_folder_and_every_file_in_its_list(lab: GatewayLab):
    lab.file("m.mrxs")
    folder = Folder(lab.folder)

    def missing() -> tuple[str, ...]:
        return folder.look().candidates[0].missing

    assert missing() == ("Slidedat.ini",)
    lab.file("m/Data0.dat")
    assert missing() == ("Slidedat.ini",)
    (lab.folder / "m/Data0.dat").unlink()
    lab.file("m/Slidedat.ini", MIRAX)
    assert missing() == ("Data0.dat",)
    lab.file("m/Data0.dat")
    assert missing() == ()


def test_a_companion_folder_without_its_index_is_not_a_slide(lab: GatewayLab):
    lab.file("m/Slidedat.ini", MIRAX)
    lab.file("m/Data0.dat")
    assert _seen(lab) == {}


def test_hamamatsu_is_one_slide_with_the_files_it_names(lab: GatewayLab):
    lab.file("v.vms", HAMAMATSU)
    lab.file("v.jpg", "0")
    assert _seen(lab)["v.vms"].missing == ("v_map.jpg",)
    lab.file("v_map.jpg", "m")
    found = _seen(lab)["v.vms"]
    assert ([name for name, _, _ in found.files], found.missing) == (["v.vms", "v.jpg", "v_map.jpg"], ())


def test_an_index_is_read_once_as_long_as_it_stays_the_same(lab: GatewayLab, monkeypatch: pytest.MonkeyPatch):
    lab.file("v.vms", HAMAMATSU)
    reads: list[Path] = []
    real = folder_module.named_parts
    monkeypatch.setattr(folder_module, "named_parts", lambda path: reads.append(path) or real(path))
    folder = Folder(lab.folder)
    folder.look()
    folder.look()
    assert len(reads) == 1
    lab.file("v.vms", HAMAMATSU + "OptimisationFile=v.opt\n")
    assert "v.opt" in folder.look().candidates[0].missing
    assert len(reads) == 2


def test_a_folder_of_dicom_files_is_one_slide(lab: GatewayLab):
    lab.file("case/2.dcm", "22")
    lab.file("case/1.DCM", "1")
    lab.file("case/notes.txt")
    lab.file("case/inner/3.dcm")
    seen = _seen(lab)
    assert list(seen) == ["case", "case/inner"]
    assert [name for name, _, _ in seen["case"].files] == ["1.DCM", "2.dcm"]


def test_dicom_files_right_in_the_root_change_together(lab: GatewayLab):
    lab.file("1.dcm")
    lab.file("2.dcm")
    seen = _seen(lab)
    assert list(seen) == ["1.dcm", "2.dcm"]
    assert len(seen["1.dcm"].files) == 2


def test_links_to_folders_are_not_followed_and_dangling_links_are_not_slides(lab: GatewayLab, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.svs").write_text("x")
    (lab.folder / "out").symlink_to(outside)
    (lab.folder / "round").symlink_to(lab.folder)
    (lab.folder / "gone.svs").symlink_to(lab.folder / "nowhere.svs")
    os.mkfifo(lab.folder / "pipe.svs")
    assert _seen(lab) == {}


def test_an_unavailable_folder_is_a_transient_error(lab: GatewayLab):
    with pytest.raises(TransientError) as caught:
        Folder(lab.folder / "not-mounted").look()
    assert caught.value.code == "watch-unavailable"


def test_a_closed_folder_inside_does_not_hide_the_others(lab: GatewayLab, monkeypatch: pytest.MonkeyPatch):
    lab.file("a/a.svs")
    lab.file("b/b.svs")
    real = folder_module._entries

    def entries(path: Path):
        if path.name == "a":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(folder_module, "_entries", entries)
    look = Folder(lab.folder).look()
    assert [found.path.name for found in look.candidates] == ["b.svs"]
    assert look.closed == [lab.folder / "a"]


def test_a_folder_deleted_during_the_scan_does_no_harm(lab: GatewayLab, monkeypatch: pytest.MonkeyPatch):
    lab.file("a/a.svs")
    real = folder_module._entries

    def entries(path: Path):
        if path.name == "a":
            raise FileNotFoundError
        return real(path)

    monkeypatch.setattr(folder_module, "_entries", entries)
    assert Folder(lab.folder).look().candidates == []


def test_links_to_folders_are_reported_and_not_followed(lab: GatewayLab):
    lab.file("in/a.svs")
    (lab.folder / "in" / "up").symlink_to(lab.folder)
    (lab.folder / "self").symlink_to(lab.folder / "self")
    look = Folder(lab.folder).look()
    assert [found.path.name for found in look.candidates] == ["a.svs"]
    assert look.links == [lab.folder / "in" / "up"]
