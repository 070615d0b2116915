"""Which files a slide is stored in is known without opening it, and opening it agrees."""

from __future__ import annotations

from pathlib import Path

import pytest
from dicom_series import write_series
from tiff_pyramid import halved

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import sha256_file
from histgen_lib.slides import open_slide
from histgen_lib.slides.formats import named_parts
from histgen_lib.slides.source import content_id, content_id_of, stored_in


def stored_content_id(path: Path) -> str:
    return content_id_of(stored_in(path))


def _write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")


def test_the_content_id_of_a_single_file_is_its_sha256(slide_path):
    assert stored_in(slide_path) == [slide_path]
    assert stored_content_id(slide_path) == sha256_file(slide_path)


def test_a_dicom_series_has_one_identity_by_folder_by_file_and_when_open(tmp_path, picture):
    folder = write_series(tmp_path / "case", [picture, halved(picture)], mpp=0.25)
    (folder / "notes.txt").write_text("not part of it")
    with open_slide(folder) as slide:
        assert stored_content_id(folder) == slide.content_id
        assert stored_content_id(min(folder.glob("*.dcm"))) == slide.content_id


def test_a_folder_without_a_slide_still_has_an_identity(tmp_path):
    _write(tmp_path / "odd", a__dcm="not DICOM", b__dcm="neither")
    assert len(stored_content_id(tmp_path / "odd")) == 64


def test_a_mirax_slide_is_its_index_and_the_folder_beside_it(tmp_path):
    (tmp_path / "m.mrxs").write_text("index")
    listing = "\ufeff[HIERARCHICAL]\r\nINDEXFILE = Index.dat\r\n[DATAFILE]\r\nFILE_0 = Data0000.dat\r\n"
    _write(tmp_path / "m", Slidedat__ini=listing, Index__dat="i", Data0000__dat="d")
    (tmp_path / "other.svs").write_text("a neighbour")
    assert {part.name for part in named_parts(tmp_path / "m.mrxs")} == {
        "Slidedat.ini",
        "Index.dat",
        "Data0000.dat",
    }
    assert len(stored_in(tmp_path / "m.mrxs")) == 4
    assert stored_content_id(tmp_path / "m.mrxs") == content_id(tmp_path / "m.mrxs")


def test_a_mirax_slide_without_its_folder_names_the_missing_list(tmp_path):
    (tmp_path / "m.mrxs").write_text("index")
    assert named_parts(tmp_path / "m.mrxs") == [tmp_path / "m" / "Slidedat.ini"]


def test_a_hamamatsu_slide_is_the_files_that_its_index_names_and_no_others(tmp_path):
    index = "[Virtual Microscope Specimen]\nImageFile=v.jpg\nImageFile(1,0)=v_1.jpg\nMapFile=v_map.jpg\n"
    index += "OptimisationFile=v.opt\n"
    _write(tmp_path, v__vms=index, v__jpg="0", v_1__jpg="1", v_map__jpg="m", v__opt="o")
    before = stored_content_id(tmp_path / "v.vms")
    (tmp_path / "another.svs").write_text("a neighbour")
    assert stored_content_id(tmp_path / "v.vms") == before == content_id(tmp_path / "v.vms")
    (tmp_path / "v_1.jpg").write_text("changed")
    assert stored_content_id(tmp_path / "v.vms") != before


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("../secret.jpg", ["../secret.jpg"]),
        ("/etc/passwd", ["etc/passwd"]),
        (" a b.jpg \t\r", ["a b.jpg \t"]),
        ("a\u2028b.jpg", ["a\u2028b.jpg"]),
        ("a\\sb\\\\c", ["a\\sb\\\\c", "a b\\c"]),
        ("..", []),
        ("", []),
    ],
)
def test_an_index_names_the_files_that_openslide_would_open(tmp_path, value, names):
    """Found from what OpenSlide reports as missing; whether they may be opened is judged by `admit`."""
    index = tmp_path / "v.vms"
    index.write_bytes(f"[Virtual Microscope Specimen]\nMapFile={value}\n".encode())
    assert named_parts(index) == [tmp_path / name for name in names]


def test_a_slide_that_does_not_exist_is_reported_as_missing(tmp_path):
    with pytest.raises(InvalidInputError, match="no file gone") as caught:
        stored_content_id(tmp_path / "gone.svs")
    assert caught.value.code == "slide-missing"
