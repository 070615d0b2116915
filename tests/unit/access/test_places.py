"""URIs are parsed in one way for all services, and there is one judgement on what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from histgen_lib.access.places import FilePlace, Roots, parse_uri
from histgen_lib.errors import InvalidInputError


@pytest.mark.parametrize(
    "uri",
    [
        "FILE:///a.svs",
        "S3://lab/a.svs",
        "file:///a%00b",
        "file://host/share/a.svs",
        "file:a.svs",
        "file://",
        "file:",
        "s3://lab/../a.svs",
        "s3://lab/\udfff",
        "file:///a\ud800",
        "file:///" + "n" * 256,
        "file:///" + "%C3%A9" * 256,
        "file:///" + "é/" * 2040,
    ],
)
def test_a_name_that_no_file_or_object_can_have_is_not_a_uri(uri):
    with pytest.raises(InvalidInputError) as caught:
        parse_uri(uri)
    assert caught.value.code == "uri-invalid"


@pytest.mark.parametrize("name", ["n" * 255, "é" * 255, "a%20b", "a\nb", "%zz"])
def test_a_name_that_some_file_system_allows_is_accepted(name):
    place = FilePlace(Path("/scans") / name)
    assert parse_uri(place.uri) == place


def test_a_file_is_judged_by_its_real_path_without_another_look_up(tmp_path):
    """A link may change between the look-up and the judgement."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path / "out")
    roots = Roots((tmp_path / "in",))
    roots.judge(tmp_path / "in/link/a.svs")
    with pytest.raises(InvalidInputError, match="HISTGEN_ROOTS") as caught:
        roots.judge(tmp_path / "out/a.svs")
    assert caught.value.code == "uri-outside-roots"


def test_a_root_may_be_a_link_itself(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "scans").symlink_to(tmp_path / "real")
    (tmp_path / "real/a.svs").touch()
    roots = Roots((tmp_path / "scans",))
    roots.require(FilePlace(tmp_path / "scans/a.svs"))
    roots.judge((tmp_path / "real/a.svs").resolve())


def test_without_roots_nothing_is_allowed():
    for uri in ("file:///a.svs", "s3://lab/a.svs"):
        with pytest.raises(InvalidInputError) as caught:
            Roots().require(parse_uri(uri))
        assert caught.value.code == "uri-outside-roots"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///scans/in/../a.svs", "/scans/a.svs"),
        ("file:///scans/%2e%2e/etc/passwd", "/etc/passwd"),
        ("file:///../../a.svs", "/a.svs"),
        ("file:////scans/./a.svs", "/scans/a.svs"),
        ("file://///scans//a.svs", "/scans/a.svs"),
    ],
)
def test_a_uri_is_parsed_without_looking_up_what_it_names(uri, path, monkeypatch):
    monkeypatch.setattr(Path, "resolve", None)
    assert parse_uri(uri) == FilePlace(Path(path))


def test_a_path_that_is_not_written_below_a_root_is_refused_without_any_look_up(tmp_path, monkeypatch):
    """A link that leads into the roots would reveal itself, and a share that hangs would block us."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.svs").touch()
    (tmp_path / "way-in").symlink_to(tmp_path / "in")
    looked_up, real = [], Path.resolve
    monkeypatch.setattr(Path, "resolve", lambda path: (looked_up.append(path), real(path))[1])
    for path in (tmp_path / "way-in/a.svs", tmp_path / "no-way-in/a.svs", Path("/share/a.svs")):
        with pytest.raises(InvalidInputError) as caught:
            Roots((tmp_path / "in",)).require(FilePlace(path))
        assert caught.value.code == "uri-outside-roots"
    assert set(looked_up) == {tmp_path / "in"}
