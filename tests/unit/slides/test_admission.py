"""Whatever a reader would open for a slide must be a regular file, and inside the roots if there are any."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from dicom_series import write_series
from tiff_pyramid import halved

from histgen_lib.access.places import Roots
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import sha256_file
from histgen_lib.slides import limits, open_slide
from histgen_lib.slides.source import admit, content_id_of

VMS = (
    "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\nImageFile=i.jpg\nMapFile={}\n"
)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    (tmp_path / "scans").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.dat").write_text("secret")
    return tmp_path / "scans"


def code_of(path: Path, within: Roots | None = None) -> str:
    with pytest.raises(InvalidInputError) as caught:
        admit(path, within)
    assert "secret" not in str(caught.value)
    return caught.value.code


def test_a_pipe_is_refused_without_waiting(scans):
    os.mkfifo(scans / "a.svs")
    with pytest.raises(InvalidInputError, match="not a regular file") as caught:
        open_slide(scans / "a.svs")
    assert caught.value.code == "slide-unreadable"


def test_a_sound_slide_is_admitted_through_a_link_too(scans, slide_file):
    shutil.copy(slide_file, scans / "a.tif")
    (scans / "b.tif").symlink_to("a.tif")
    for name in ("a.tif", "b.tif"):
        assert admit(scans / name, Roots((scans,))) is False
        open_slide(scans / name, within=Roots((scans,))).close()


def test_a_link_out_of_the_roots_is_followed_only_if_there_are_no_roots(scans, tmp_path, slide_file):
    shutil.copy(slide_file, tmp_path / "outside/a.tif")
    (scans / "a.tif").symlink_to(tmp_path / "outside/a.tif")
    assert code_of(scans / "a.tif", Roots((scans,))) == "uri-outside-roots"
    open_slide(scans / "a.tif").close()


@pytest.mark.parametrize("name", ["../outside/secret.dat", "link.jpg", "folder/secret.dat"])
def test_an_index_cannot_name_a_file_outside_the_roots(scans, name):
    (scans / "link.jpg").symlink_to("../outside/secret.dat")
    (scans / "folder").symlink_to("../outside")
    (scans / "v.vms").write_text(VMS.format(name))
    assert code_of(scans / "v.vms", Roots((scans,))) == "uri-outside-roots"
    admit(scans / "v.vms", Roots((scans.parent,)))


def test_the_answer_to_an_index_does_not_reveal_what_exists_outside(scans):
    (scans / "v.vms").write_text(VMS.format("../outside/not-there.dat"))
    assert code_of(scans / "v.vms", Roots((scans,))) == "uri-outside-roots"


@pytest.mark.parametrize("name", ["pipe", "pipe \t", "..//scans/pipe"])
def test_an_index_cannot_name_a_pipe(scans, name):
    os.mkfifo(scans / name.rpartition("/")[2])
    (scans / "v.vms").write_text(VMS.format(name))
    assert code_of(scans / "v.vms") == "slide-unreadable"


def test_an_absolute_name_is_taken_relative_to_the_index_as_openslide_does(scans):
    (scans / "v.vms").write_text(VMS.format("/etc/passwd"))
    admit(scans / "v.vms", Roots((scans,)))


@pytest.mark.parametrize("turned", ["m", "m/Slidedat.ini", "m/D0.dat"])
def test_no_part_of_a_mirax_slide_lies_outside_the_roots(scans, tmp_path, turned):
    (scans / "m.mrxs").write_text("index")
    (scans / "m").mkdir()
    (scans / "m/Slidedat.ini").write_text("[DATAFILE]\nFILE_0=D0.dat\n")
    (scans / "m/D0.dat").write_text("0")
    admit(scans / "m.mrxs", Roots((scans,)))
    (scans / turned).rename(tmp_path / "outside/moved")
    (scans / turned).symlink_to(tmp_path / "outside/moved")
    assert code_of(scans / "m.mrxs", Roots((scans,))) == "uri-outside-roots"


@pytest.mark.parametrize("by_file", [False, True])
def test_whatever_lies_among_dicom_files_is_checked_because_readers_open_it(scans, picture, by_file):
    folder = write_series(scans / "case", [picture, halved(picture)], mpp=0.25)
    slide = min(folder.glob("*.dcm")) if by_file else folder
    (folder / "inner").mkdir()
    (folder / "dangling").symlink_to("nowhere")
    assert admit(slide, Roots((scans,))) is not by_file
    os.mkfifo(folder / "pipe")
    assert code_of(slide) == "slide-unreadable"
    (folder / "pipe").unlink()
    (folder / "link").symlink_to("../../outside/secret.dat")
    admit(slide, None)
    assert code_of(slide, Roots((scans,))) == "uri-outside-roots"


@pytest.mark.parametrize("beside", ["a.Full", "a.svslide-journal", "a.svslide-wal"])
def test_files_that_readers_look_for_beside_a_slide_must_be_regular(scans, slide_file, beside):
    shutil.copy(slide_file, scans / "a.svslide")
    os.mkfifo(scans / beside)
    assert code_of(scans / "a.svslide") == "slide-unreadable"


def test_no_more_is_read_than_a_file_had_at_the_start(scans, monkeypatch):
    """A log that is written faster than it can be read would be read forever."""
    path = scans / "a.svs"
    path.write_bytes(b"x" * 100)
    real = os.fstat

    def grows(handle):
        found = real(handle)
        with path.open("ab") as more:
            more.write(b"x")
        return found

    monkeypatch.setattr("histgen_lib.slides.source.os.fstat", grows)
    with pytest.raises(InvalidInputError) as caught:
        content_id_of([path])
    assert caught.value.code == "slide-changed"


@pytest.mark.parametrize("size", [10, 3 << 30, 1 << 40])
def test_a_file_that_is_mostly_a_gap_is_not_read_through(scans, size):
    """A terabyte of gap takes no room on disk, but an hour to read."""
    (scans / "a.svs").write_bytes(b"II*\0")
    os.truncate(scans / "a.svs", size)
    if size == 10:
        assert len(content_id_of([scans / "a.svs"])) == 64
        return
    with pytest.raises(InvalidInputError, match="never written") as caught:
        content_id_of([scans / "a.svs"])
    assert caught.value.code == "slide-unreadable"


def test_a_gap_in_a_file_is_read_as_zeros(scans):
    with (scans / "a.svs").open("wb") as file:
        file.write(b"x" * 5000)
        file.seek(1 << 20)
        file.write(b"y" * 5000)
    assert content_id_of([scans / "a.svs"]) == sha256_file(scans / "a.svs")


def test_what_a_library_quotes_from_a_file_is_not_passed_on(scans):
    """GLib repeats the line that it cannot read."""
    (scans / "m.mrxs").write_bytes(b"\xff\xd8\xff\xe0")
    (scans / "m").mkdir()
    (scans / "m/Slidedat.ini").write_text("[GENERAL]\nJane Roe, secret\n")
    with pytest.raises(InvalidInputError) as caught:
        open_slide(scans / "m.mrxs")
    assert "Roe" not in str(caught.value)


@pytest.mark.parametrize("there", ["file", "folder", "pipe", "nothing"])
def test_a_link_out_of_a_dicom_folder_is_refused_whatever_it_leads_to(tmp_path, there):
    """The answer must not reveal what exists outside."""
    folder, outside = tmp_path / "in/dicom", tmp_path / "outside"
    folder.mkdir(parents=True)
    (folder / "1.dcm").write_bytes(b"\0" * 128 + b"DICM")
    {"file": outside.touch, "folder": outside.mkdir, "pipe": lambda: os.mkfifo(outside)}.get(there, str)()
    (folder / "link").symlink_to(outside)
    for path in (folder, folder / "1.dcm"):
        with pytest.raises(InvalidInputError) as caught:
            admit(path, Roots((tmp_path / "in",)))
        assert caught.value.code == "uri-outside-roots"


def test_a_slide_among_too_many_files_is_refused_before_they_are_opened(tmp_path, monkeypatch):
    """Whether named by an index or in a folder with DICOM files, the reader opens all of them."""
    monkeypatch.setattr(limits, "MOST_FILES", 5)
    lines = "".join(f"ImageFile({number},0)=part{number}.jpg\n" for number in range(6))
    (tmp_path / "a.vms").write_text(f"[Virtual Microscope Specimen]\n{lines}")
    (tmp_path / "d").mkdir()
    for number in range(6):
        (tmp_path / "d" / f"{number}.dcm").write_bytes(bytes(128) + b"DICM")
    for path in (tmp_path / "a.vms", tmp_path / "d", tmp_path / "d" / "0.dcm"):
        with pytest.raises(InvalidInputError) as caught:
            admit(path, None)
        assert caught.value.code == "slide-too-large"
