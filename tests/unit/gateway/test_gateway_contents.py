"""A slide's content is every byte it is stored in, and never a mixture of two states."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gateway_fakes import GatewayLab

from histgen_lib.access.places import FilePlace, ObjectPlace
from histgen_lib.errors import FatalError, InvalidInputError, TransientError
from histgen_lib.files import sha256_hex
from histgen_lib.slides.source import content_id
from services.gateway import contents
from services.gateway.contents import Content, mark_of

LISTING = (
    "[HIERARCHICAL]\nINDEXFILE = Index.dat\n[DATAFILE]\nFILE_COUNT = 2\nFILE_0 = D0.dat\nFILE_1 = D1.dat\n"
)


def _mirax(lab: GatewayLab, name: str = "m") -> Path:
    for part, text in (("Slidedat.ini", LISTING), ("Index.dat", "i"), ("D0.dat", "0"), ("D1.dat", "1")):
        lab.file(f"{name}/{part}", text)
    return lab.file(f"{name}.mrxs", "index")


def _refused(lab: GatewayLab, place: Path | ObjectPlace) -> str:
    with pytest.raises(InvalidInputError) as caught:
        lab.submit(place)
    return caught.value.code


def test_a_files_content_is_its_digest_and_size(lab: GatewayLab):
    path = lab.file("a.svs", b"pixels")
    assert lab.intake.contents.measure(FilePlace(path)) == Content(sha256_hex(b"pixels"), 6)


def test_mirax_content_includes_all_companion_files(lab: GatewayLab):
    path = _mirax(lab)
    measured = lab.intake.contents.measure(FilePlace(path))
    assert measured == Content(content_id(path), 5 + len(LISTING) + 3)


@pytest.mark.parametrize("gone", ["m/Slidedat.ini", "m/Index.dat", "m/D1.dat"])
def test_mirax_without_one_of_its_companions_is_incomplete(lab: GatewayLab, gone: str):
    path = _mirax(lab)
    (lab.folder / gone).unlink()
    assert _refused(lab, path) == "slide-incomplete"


def test_an_impossible_path_is_an_error_of_the_slide(lab: GatewayLab):
    assert _refused(lab, lab.folder / f"{'n' * 300}.svs") == "slide-unreadable"


def test_an_object_is_read_in_pieces_and_never_held_whole(lab: GatewayLab):
    lab.object("lab", "a.svs", b"0123456789")
    pieces: list[int] = []
    lab.buckets["lab"].on_read = lambda: pieces.append(1)
    measured = lab.intake.contents.measure(ObjectPlace("lab", "a.svs"))
    assert measured == Content(sha256_hex(b"0123456789"), 10)
    assert len(pieces) == 3


def test_an_object_overwritten_while_it_is_read_is_not_announced(lab: GatewayLab):
    lab.object("lab", "a.svs", b"0123456789")
    lab.buckets["lab"].on_read = lambda: lab.object("lab", "a.svs", b"9876543210")
    assert _refused(lab, ObjectPlace("lab", "a.svs")) == "slide-changed"
    assert lab.bus.published == []


def test_a_file_that_grows_while_it_is_read_is_not_announced(
    lab: GatewayLab, monkeypatch: pytest.MonkeyPatch
):
    path = lab.file("a.svs")
    real = contents.content_id_of

    def reads_slowly(parts):
        with path.open("ab") as more:
            more.write(b"more")
        return real(parts)

    monkeypatch.setattr(contents, "content_id_of", reads_slowly)
    assert _refused(lab, path) == "slide-changed"
    assert lab.bus.published == []


def test_an_absent_file_or_object_is_missing(lab: GatewayLab):
    assert _refused(lab, lab.folder / "a.svs") == "slide-missing"
    assert _refused(lab, ObjectPlace("lab", "a.svs")) == "slide-missing"


def test_a_file_without_read_permission_is_unreadable(lab: GatewayLab, monkeypatch: pytest.MonkeyPatch):
    path = lab.file("a.svs")

    def denied(_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(contents, "content_id_of", denied)
    assert _refused(lab, path) == "slide-unreadable"


def test_a_folder_that_is_not_a_slide_is_not_searched(lab: GatewayLab):
    lab.file("archive/a.svs")
    assert _refused(lab, lab.folder / "archive") == "slide-is-folder"


def test_a_pipe_is_refused(lab: GatewayLab):
    os.mkfifo(lab.folder / "a.svs")
    assert _refused(lab, lab.folder / "a.svs") == "slide-unreadable"


def test_a_pipe_among_dicom_files_is_refused_at_once(lab: GatewayLab):
    lab.file("case/1.dcm", bytes(128) + b"DICM")
    os.mkfifo(lab.folder / "case/2.dcm")
    for place in ("case", "case/1.dcm"):
        assert _refused(lab, lab.folder / place) == "slide-unreadable"


@pytest.mark.parametrize("name", ["../outside.jpg", "link.jpg"])
def test_an_index_that_names_a_file_outside_the_roots_is_refused(lab: GatewayLab, name: str):
    (lab.folder.parent / "outside.jpg").write_text("secret")
    (lab.folder / "link.jpg").symlink_to("../outside.jpg")
    path = lab.file("v.vms", f"[Virtual Microscope Specimen]\nMapFile={name}\n".encode())
    assert _refused(lab, path) == "uri-outside-roots"
    assert lab.bus.published == []


def test_an_empty_file_is_announced_and_left_to_the_tiler_to_judge(lab: GatewayLab):
    assert lab.submit(lab.file("a.svs", b"")).status == "accepted"
    assert lab.bus.scanned[0].data.size_bytes == 0


@pytest.mark.parametrize("key", ["m.mrxs", "v.vms", "v.vmu", "series/1.dcm"])
def test_slides_in_several_files_are_not_taken_from_a_bucket(lab: GatewayLab, key: str):
    lab.object("lab", key)
    assert _refused(lab, ObjectPlace("lab", key)) == "slide-in-parts"


@pytest.mark.parametrize("error", [FatalError("storage-denied", "No."), FatalError("storage-missing", "No.")])
def test_a_bucket_that_denies_access_is_an_error_of_the_slide(
    lab: GatewayLab, monkeypatch, error: FatalError
):
    lab.object("lab", "a.svs")

    def refuse(key: str):
        raise error

    monkeypatch.setattr(lab.buckets["lab"], "head", refuse)
    assert _refused(lab, ObjectPlace("lab", "a.svs")) == "slide-unreadable"


def test_an_unavailable_bucket_is_a_transient_error(lab: GatewayLab):
    lab.object("lab", "a.svs")
    lab.buckets["lab"].away = True
    with pytest.raises(TransientError):
        lab.submit(ObjectPlace("lab", "a.svs"))


def test_a_mark_changes_with_name_size_and_time_of_any_file():
    before = [("a.dcm", 1, 10), ("b.dcm", 2, 20)]
    marks = {
        mark_of("file:///x", before),
        mark_of("file:///y", before),
        mark_of("file:///x", [("a.dcm", 1, 10), ("b.dcm", 2, 21)]),
        mark_of("file:///x", [("a.dcm", 1, 10), ("b.dcm", 3, 20)]),
        mark_of("file:///x", [("a.dcm", 1, 10), ("c.dcm", 2, 20)]),
        mark_of("file:///x", before[:1]),
    }
    assert len(marks) == 6
    assert mark_of("file:///x", list(before)) in marks


def test_a_name_that_is_not_utf8_is_accepted(lab: GatewayLab):
    path = Path(os.fsdecode(os.fsencode(lab.folder) + b"/pr\xe4parat.svs"))
    path.write_bytes(b"pixels")
    assert lab.submit(path, mark=mark_of("x", contents.states([path]))).status == "accepted"
    assert lab.bus.scanned[0].data.uri.endswith("/pr%E4parat.svs")


def test_a_slide_over_the_size_limit_is_refused_unread(lab: GatewayLab, monkeypatch: pytest.MonkeyPatch):
    """The limit counts all files of the slide, and applies to objects too. The answer names the setting."""
    lab.intake.contents._most_bytes = 100
    monkeypatch.setattr(contents, "content_id_of", lambda parts: pytest.fail("it was read"))
    mirax = _mirax(lab)
    (lab.folder / "m/D1.dat").write_bytes(bytes(101))
    lab.object("lab", "b.svs", bytes(101))
    for place in (lab.file("a.svs", bytes(101)), mirax, ObjectPlace("lab", "b.svs")):
        assert _refused(lab, place) == "slide-too-large"
    assert lab.buckets["lab"].reads == 0
    assert lab.bus.published == []


def test_a_slide_at_the_size_limit_is_accepted(lab: GatewayLab):
    lab.intake.contents._most_bytes = 100
    assert lab.intake.contents.measure(FilePlace(lab.file("a.svs", bytes(100)))).size_bytes == 100


def test_an_object_that_becomes_larger_while_it_is_read_is_not_read_to_its_end(lab: GatewayLab):
    lab.object("lab", "a.svs", b"0123456789")
    bucket = lab.buckets["lab"]
    pieces: list[int] = []

    def endless(key: str, size: int = 4):
        while True:
            pieces.append(1)
            yield b"0123"

    bucket.chunks = endless
    assert _refused(lab, ObjectPlace("lab", "a.svs")) == "slide-changed"
    assert len(pieces) == 3
