"""Names from outside as parts of paths: none leads out of its folder, whatever it contains."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histgen_lib.names import place_in, safe_id

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
