"""A file with the bytes of a known slide is that slide, and is found under its own name as well."""

from __future__ import annotations

import planted_objects as planted
from gateway_fakes import GatewayLab

from histgen_lib.catalogue import keys
from histgen_lib.files import unsealed


def copies(lab: GatewayLab) -> list[str]:
    return sorted(key for key in lab.store.kept if key.startswith(keys.COPIES))


def test_a_copy_is_recorded_under_its_name_and_is_news_once(lab: GatewayLab):
    lab.submit(lab.file("a.svs"))
    news: list[tuple[str, str]] = []
    lab.intake.on_news = lambda slide_id, key: news.append((slide_id, key))
    copy = lab.file("copies/a of a.svs")
    for _ in range(2):
        assert lab.submit(copy, mark="m").slide_id == "a"
    (key,) = copies(lab)

    assert key == keys.copy_key("a_of_a", "a")
    assert unsealed(lab.store.kept[key]) == {"schema": 1, "slide_id": "a", "uri": copy.as_uri()}
    assert news == [("a", key)]


def test_a_copy_seen_by_an_older_version_is_recorded_when_it_is_submitted_again(lab: GatewayLab):
    lab.submit(lab.file("a.svs"))
    lab.submit(lab.file("b.svs"), mark="m")
    del lab.store.kept[keys.copy_key("b", "a")]
    lab.submit(lab.file("b.svs"), mark="m")

    assert copies(lab) == [keys.copy_key("b", "a")]


def test_copies_of_two_slides_may_have_one_name(lab: GatewayLab):
    for name in "ab":
        lab.submit(lab.file(f"{name}.svs", name))
        lab.submit(lab.file(f"{name}/scan.svs", name))

    assert copies(lab) == [keys.copy_key("scan", "a"), keys.copy_key("scan", "b")]


def test_a_copy_of_a_given_up_slide_is_recorded(lab: GatewayLab):
    lab.submit(lab.file("a.svs"))
    planted.letter(lab.store, lab.bus.scanned[0])
    assert lab.submit(lab.file("b.svs")).status == "dead-letter"

    assert copies(lab) == [keys.copy_key("b", "a")]


def test_distinct_slides_and_stated_ids_are_not_copies(lab: GatewayLab):
    lab.submit(lab.file("a.svs"))
    lab.submit(lab.file("a.svs"))
    lab.submit(lab.file("b.svs"), slide_id="c")

    assert copies(lab) == []
