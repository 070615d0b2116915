"""A file with the bytes of a known slide is that slide, and is found under its own name, too."""

from __future__ import annotations

import planted_objects as planted
from gateway_fakes import Lab

from histgen_lib.catalogue import keys
from histgen_lib.files import unsealed


def copies(lab: Lab) -> list[str]:
    return sorted(key for key in lab.store.kept if key.startswith(keys.COPIES))


def test_a_copy_is_noted_under_its_name_and_its_slide_is_told_of_it_once(lab: Lab):
    lab.tell(lab.file("a.svs"))
    told: list[tuple[str, str]] = []
    lab.intake.on_news = lambda slide_id, key: told.append((slide_id, key))
    copy = lab.file("copies/a of a.svs")
    for _ in range(2):
        assert lab.tell(copy, mark="m").slide_id == "a"
    (key,) = copies(lab)

    assert key == keys.copy_key("a_of_a", "a")
    assert unsealed(lab.store.kept[key]) == {"schema": 1, "slide_id": "a", "uri": copy.as_uri()}
    assert told == [("a", key)]


def test_a_copy_that_was_looked_at_before_copies_were_noted_is_noted_when_it_is_told_of_again(lab: Lab):
    lab.tell(lab.file("a.svs"))
    lab.tell(lab.file("b.svs"), mark="m")
    del lab.store.kept[keys.copy_key("b", "a")]
    lab.tell(lab.file("b.svs"), mark="m")

    assert copies(lab) == [keys.copy_key("b", "a")]


def test_copies_of_two_slides_may_have_one_name(lab: Lab):
    for name in "ab":
        lab.tell(lab.file(f"{name}.svs", name))
        lab.tell(lab.file(f"{name}/scan.svs", name))

    assert copies(lab) == [keys.copy_key("scan", "a"), keys.copy_key("scan", "b")]


def test_a_copy_of_a_slide_that_was_given_up_is_noted(lab: Lab):
    lab.tell(lab.file("a.svs"))
    planted.letter(lab.store, lab.bus.scanned[0])
    assert lab.tell(lab.file("b.svs")).status == "dead-letter"

    assert copies(lab) == [keys.copy_key("b", "a")]


def test_slides_of_their_own_and_stated_names_are_no_copies(lab: Lab):
    lab.tell(lab.file("a.svs"))
    lab.tell(lab.file("a.svs"))
    lab.tell(lab.file("b.svs"), slide_id="c")

    assert copies(lab) == []
