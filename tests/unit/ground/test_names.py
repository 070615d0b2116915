"""Names from outside as parts of paths: none leads out of its folder, whatever it contains."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histgen_lib.names import place_in, safe_id, safe_name, slide_id_of

STRANGE = {
    "dots": "..",
    "dot": ".",
    "empty": "",
    "climbs": "../../etc/cron.d/x",
    "absolute": "/etc/passwd",
    "nul": "a\0b",
    "windows": "..\\..\\x",
    "drive": "C:\\x",
    "controls": "a\n\r\x1b[2J\x9bb",
    "long": "n" * 300,
    "long in another script": "片" * 300,
    "half a character": "a\ud800b",
    "hidden": ".ssh",
}


@pytest.mark.parametrize("name", STRANGE.values(), ids=STRANGE.keys())
def test_a_strange_name_becomes_one_plain_part_of_a_path(tmp_path, name):
    place = place_in(tmp_path, name, ".json")
    assert place.parent == tmp_path
    place.touch()
    assert place.resolve().parent == tmp_path.resolve()
    assert not place.name.startswith(".")


@given(st.text())
def test_no_text_leads_out_of_the_folder(name):
    place = place_in(Path("out"), name)
    assert place.parent == Path("out")
    assert place.name.isascii()
    assert 0 < len(place.name) <= 128


@given(st.text())
def test_a_safe_name_stays_unchanged(name):
    assert safe_id(safe_id(name)) == safe_id(name)


@pytest.mark.parametrize("name", ["TCGA-3C-AALI-01Z-00-DX1.F6E9A5DF", "P1.2", "a_b-c", "ends."])
def test_an_id_that_events_allow_keeps_its_name(name):
    assert safe_id(name) == name


def test_names_that_differ_only_in_letters_of_other_scripts_stay_different() -> None:
    assert safe_name("切片一") != safe_name("切片二")
    assert safe_name("Präparat 7").startswith("Pr_parat_7-")
    assert all(char.isascii() for char in safe_name("切片一"))
    assert safe_name("Mu\u0308ller") != safe_name("Mu\u0302ller")
    assert safe_name(os.fsdecode(b"M\xfcller")) != safe_name(os.fsdecode(b"M\xf6ller"))


def test_a_name_is_the_same_however_its_accents_are_encoded() -> None:
    assert safe_name("Mu\u0308ller") == safe_name("M\u00fcller")


def test_very_long_names_become_ids_that_events_can_carry_and_stay_different() -> None:
    one, other = safe_name("a" * 250), safe_name("a" * 251)
    assert len(one) == 128
    assert one != other
    assert safe_name("a" * 128) == "a" * 128


@pytest.mark.parametrize(
    ("place", "slide_id"),
    [
        ("s3://lab/2026/S 1.svs", "S_1"),
        (PurePosixPath("2026/S-1.ome.tif"), "S-1.ome"),
        (Path("/scans/a.svs"), "a"),
        ("/scans/.svs", "svs"),
    ],
)
def test_a_slide_is_called_by_its_name_without_the_suffix(place, slide_id) -> None:
    assert slide_id_of(place) == slide_id


def test_a_folder_is_a_slide_called_by_its_whole_name(tmp_path) -> None:
    (tmp_path / "case.1").mkdir()
    assert slide_id_of(tmp_path / "case.1") == slide_id_of(str(tmp_path / "case.1")) == "case.1"
    assert slide_id_of(PurePosixPath(tmp_path / "case.1")) == "case"
