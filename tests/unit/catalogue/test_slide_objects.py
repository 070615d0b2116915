"""All objects of a slide are listed for a person, and none of another slide."""

from __future__ import annotations

import planted_objects as planted
import pytest

from histgen_lib.catalogue import keys
from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.states import attempts_at, objects_of
from histgen_lib.storage import StorageSettings, open_store


@pytest.fixture
def store(tmp_path):
    return open_store(StorageSettings(f"file:{tmp_path}"))


def test_the_objects_of_a_slide_and_its_case_are_listed(store):
    case = {"case_id": "C", "case_slides": ("a", "b")}
    for slide_id in ("a", "b"):
        planted.scan(store, slide_id, **case)
        planted.bag(store, slide_id)
    store.put(keys.case_slide_key("C", "a"), b"{}")
    store.put(keys.owner_key("a"), b"{}")
    planted.draft(store, "C", "a", "b")
    listed = [info.key for info in objects_of(store, Overview(store).slides({"a"}))]

    assert len(listed) == len(set(listed)) == 6
    assert {key.split("/")[0] for key in listed} == {"slides", "bags", "cases", "case-reports", "gateway"}
    assert not [key for key in listed if key.startswith(("slides/b", "bags/b"))]


def test_a_dead_letter_is_listed_with_its_slide(store):
    letter = planted.letter(store, planted.scan(store, "a"))
    (slide,) = Overview(store).slides()

    assert [info.key for info in objects_of(store, [slide])] == [keys.scanned_key("a"), letter.key]


def test_attempts_are_counted_by_worker(store):
    for key in ("tiler/one/1", "tiler/one/2", "reporter/two/1", "tiler/other/1"):
        store.put(keys.ATTEMPTS + key, b"")

    assert attempts_at(store, {"one", "two"}) == {"reporter": 1, "tiler": 2}
