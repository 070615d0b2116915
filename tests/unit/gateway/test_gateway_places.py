"""A URI has only one reading, and nothing outside the roots is ever looked at."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from gateway_fakes import GatewayLab
from hypothesis import given
from hypothesis import strategies as st

from histgen_lib.access.places import FilePlace, ObjectPlace, Roots, parse_uri
from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.names import printable
from services.gateway.submission import Submission

REFUSAL = (
    'This is not the URI of a slide. Give "file:///folder/slide.svs" (percent-encoded) or "s3://bucket/key".'
)
"""The same words whatever was sent."""


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("file:///scans/a.svs", FilePlace(Path("/scans/a.svs"))),
        ("file:/scans/a.svs", FilePlace(Path("/scans/a.svs"))),
        ("file://localhost/scans/a%20b.svs", FilePlace(Path("/scans/a b.svs"))),
        ("file:///scans/Pr%C3%A4parat%231.svs", FilePlace(Path("/scans/Präparat#1.svs"))),
        ("file:///scans/Präparat.svs", FilePlace(Path("/scans/Präparat.svs"))),
        ("file:///scans/dicom/", FilePlace(Path("/scans/dicom"))),
        ("s3://lab/in/a b+c%20.svs", ObjectPlace("lab", "in/a b+c%20.svs")),
        ("s3://lab/a//b.svs", ObjectPlace("lab", "a//b.svs")),
        ("s3://lab//b.svs", ObjectPlace("lab", "/b.svs")),
        ("s3://lab/a.svs ", ObjectPlace("lab", "a.svs ")),
        (f"s3://lab/{'ä' * 300}.svs", ObjectPlace("lab", f"{'ä' * 300}.svs")),
        (f"s3://lab/{'a' * 1020}.svs", ObjectPlace("lab", f"{'a' * 1020}.svs")),
    ],
)
def test_a_uri_names_one_place(uri: str, place):
    assert parse_uri(uri) == place


@pytest.mark.parametrize(
    "place",
    [
        FilePlace(Path("/s/a b#?%+ä切.svs")),
        ObjectPlace("lab", "a b#?%+ä切.svs"),
        ObjectPlace("lab", "//a//b /c.svs "),
    ],
)
def test_the_uri_of_a_place_is_read_back_as_that_place(place):
    assert parse_uri(place.uri) == place


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "a.svs",
        "/scans/a.svs",
        "file:a.svs",
        "file://server/share/a.svs",
        "file:///a%00.svs",
        "file:///a\0.svs",
        "file:///a.svs?x=1",
        "file:///a.svs#x",
        "http://host/a.svs",
        "s3://",
        "s3://lab",
        "s3://lab/",
        "s3:///a.svs",
        "s3://lab/../a.svs",
        "s3://lab/./a.svs",
        "s3://lab/in/../a.svs",
        "s3://lab/a\n.svs",
        f"s3://lab/{'a' * 1021}.svs",
        f"s3://lab/{'ä' * 511}.svs",
        "s3://la b/a.svs",
        "s3://lab/\ud800.svs",
        "file:///" + "a" * 5000,
    ],
)
def test_a_uri_that_cannot_be_a_slides_is_refused(uri: str):
    with pytest.raises(InvalidInputError) as caught:
        parse_uri(uri)
    assert caught.value.code == "uri-invalid"


@given(st.text(max_size=60))
def test_any_text_is_read_as_a_place_or_refused(text: str):
    for uri in (text, f"file://{text}", f"file:///{text}", f"s3://{text}", f"s3://lab/{text}"):
        message = REFUSAL
        try:
            place = parse_uri(uri)
        except InvalidInputError as error:
            message = str(error)
        else:
            assert ".." not in place.uri.split("/")
        assert message == REFUSAL


def _refused(lab: GatewayLab, uri: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        lab.intake.submit(Submission(parse_uri(uri), "http"))
    assert caught.value.code == "uri-outside-roots"
    assert lab.bus.published == []
    assert lab.store.kept == {}


def test_paths_that_climb_out_of_the_roots_are_refused(lab: GatewayLab, tmp_path: Path):
    (tmp_path / "secret.svs").write_text("secret")
    lab.file("in/a.svs")
    for way in ("..", "%2e%2e", "in/../..", "in/%2e%2e/.."):
        _refused(lab, f"file://{quote(str(lab.folder))}/{way}/secret.svs")


def test_a_path_that_climbs_but_stays_inside_is_resolved(lab: GatewayLab):
    path = lab.file("a.svs")
    (lab.folder / "in").mkdir()
    lab.intake.submit(Submission(parse_uri(f"file://{lab.folder}/in/../a.svs"), "http"))
    assert lab.bus.scanned[0].data.uri == path.as_uri()


def test_links_that_lead_out_of_the_roots_are_refused(lab: GatewayLab, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.svs").write_text("secret")
    (lab.folder / "link.svs").symlink_to(outside / "secret.svs")
    (lab.folder / "folder").symlink_to(outside)
    (lab.folder / "circle.svs").symlink_to(lab.folder / "circle.svs")
    for name in ("link.svs", "folder/secret.svs", "circle.svs"):
        _refused(lab, (lab.folder / name).as_uri())


def test_a_link_within_the_roots_is_a_slide_under_its_own_name(lab: GatewayLab):
    target = lab.file("store/0815.svs")
    (lab.folder / "a.svs").symlink_to(target)
    assert lab.submit(lab.folder / "a.svs").slide_id == "a"


def test_the_answer_does_not_tell_what_exists_outside(lab: GatewayLab, tmp_path: Path):
    _refused(lab, (tmp_path / "not-there.svs").as_uri())
    _refused(lab, Path("/etc/passwd").as_uri())


def test_a_folder_beside_a_root_with_a_longer_name_is_outside(lab: GatewayLab):
    beside = lab.folder.with_name(lab.folder.name + "-private")
    beside.mkdir()
    (beside / "a.svs").write_text("x")
    _refused(lab, (beside / "a.svs").as_uri())


def test_buckets_are_roots_by_name_and_prefix(lab: GatewayLab):
    lab.object("shared", "scans/a.svs")
    assert lab.submit(ObjectPlace("shared", "scans/a.svs")).status == "accepted"
    lab.bus.published.clear()
    lab.store.kept.clear()
    for uri in ("s3://shared/a.svs", "s3://shared/scans-old/a.svs", "s3://other/a.svs", "s3://la/b/a.svs"):
        _refused(lab, uri)


def test_files_of_a_slide_may_not_be_outside_the_roots(lab: GatewayLab, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "Slidedat.ini").write_text("[DATAFILE]\nFILE_0=Data.dat\n")
    (outside / "Data.dat").write_text("secret")
    lab.file("m.mrxs")
    (lab.folder / "m").symlink_to(outside)
    with pytest.raises(InvalidInputError) as caught:
        lab.submit(lab.folder / "m.mrxs")
    assert caught.value.code == "uri-outside-roots"


@pytest.mark.parametrize(
    ("prefix", "inside"),
    [
        ("/scans", True), ("/scans/2025", True), ("/", False), ("/scans2", False), ("/scans/../etc", False),
        ("s3://lab", True), ("s3://lab/2025", True), ("s3://lab2", False),
        ("s3://shared/scans", True), ("s3://shared/scans/a", True), ("s3://shared", False),
    ],
)  # fmt: skip
def test_a_prefix_may_not_reach_beyond_the_roots(prefix: str, inside: bool):
    roots = Roots.read(["/scans", "s3://lab", "s3://shared/scans"])
    if inside:
        roots.require_all_of(Roots.read([prefix]))
        return
    with pytest.raises(InvalidInputError) as caught:
        roots.require_all_of(Roots.read([prefix]))
    assert caught.value.code == "uri-outside-roots"


def test_roots_are_written_as_folders_or_uris():
    roots = Roots.read(["/scans", "file:///a%20b", "s3://lab", "s3://shared/scans/"])
    assert roots == Roots((Path("/scans"), Path("/a b")), ("lab/", "shared/scans/"))


@pytest.mark.parametrize("text", ["", "http://host/x", "file://server/share"])
def test_an_invalid_root_is_refused_at_once(text: str):
    with pytest.raises(FatalError) as caught:
        Roots.read([text])
    assert caught.value.code == "settings-invalid"


def test_names_are_shown_without_control_characters_and_shortened():
    assert printable("s3://lab/ä b.svs") == "s3://lab/ä b.svs"
    assert printable("\x1b[2J\n\ud800.svs") == "\\x1b[2J\\n\\ud800.svs"
    assert len(printable("a" * 100_000)) < 1500
