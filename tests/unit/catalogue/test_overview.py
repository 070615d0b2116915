"""Where a slide stands follows from the objects alone, in whatever order they came."""

from __future__ import annotations

import planted_objects as planted
import pytest

from histgen_lib.catalogue import keys
from histgen_lib.catalogue.overview import Overview
from histgen_lib.storage import ObjectStore, StorageSettings, open_store


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    return open_store(StorageSettings(f"file:{tmp_path}"))


def states(store: ObjectStore) -> dict[str, str]:
    return {slide.slide_id: slide.state for slide in Overview(store).slides()}


def test_a_slide_goes_from_scanned_to_bagged_to_drafted(store):
    planted.scan(store, "a")
    assert states(store) == {"a": "scanned"}
    planted.bag(store, "a")
    assert states(store) == {"a": "bagged"}
    key = planted.draft(store, "a")
    (slide,) = Overview(store).slides()

    assert slide.state == "drafted"
    assert slide.draft.key == key
    assert slide.draft.page_key == key.replace("draft.json", "draft.html")
    assert slide.draft.fields == {"diagnosis": "Adenoma"}


def test_a_dead_letter_for_any_event_of_a_slide_ends_it(store):
    scanned = planted.scan(store, "a")
    planted.bag(store, "a")
    follower = scanned.then(scanned.data, source="/histgen/tiler", now=planted.NOON)
    given_up = planted.letter(store, follower, worker="reporter")
    (slide,) = Overview(store).slides()

    assert slide.state == "dead-letter"
    assert slide.letter == given_up
    assert slide.ended


def test_after_a_rescan_earlier_bags_drafts_and_letters_do_not_count(store):
    planted.scan(store, "a", data="first")
    planted.bag(store, "a", data="first")
    planted.draft(store, "a", data="first")
    assert states(store) == {"a": "drafted"}
    old = planted.scan(store, "a", data="second")
    assert states(store) == {"a": "scanned"}
    planted.letter(store, old)
    assert states(store) == {"a": "dead-letter"}
    planted.scan(store, "a", data="third")
    assert states(store) == {"a": "scanned"}


def test_a_draft_at_another_mpp_than_the_announced_one_does_not_count(store):
    planted.draft(store, "a", mpp=0.5)
    planted.bag(store, "a", mpp=0.5)
    planted.scan(store, "a", mpp=0.25)

    assert states(store) == {"a": "scanned"}
    planted.draft(store, "a", mpp=0.25)
    assert states(store) == {"a": "drafted"}


def test_the_report_of_a_case_makes_its_slides_drafted(store):
    case = {"case_id": "C", "case_slides": ("a", "b")}
    planted.scan(store, "a", **case)
    planted.scan(store, "b", **case)
    planted.bag(store, "a")
    first, _ = Overview(store).slides()
    assert (first.state, first.mates) == ("bagged", {"b"})
    planted.draft(store, "C", "a", "b")

    assert states(store) == {"a": "drafted", "b": "drafted"}


def test_a_slide_lists_the_slides_that_its_case_waits_for(store):
    case = {"case_id": "C", "case_slides": ("a", "b", "c")}
    for slide_id in "abc":
        planted.scan(store, slide_id, **case)
    planted.bag(store, "a")
    assert Overview(store).slides()[0].lacks == ()  # a reporter is to come
    store.put(keys.case_slide_key("C", "a"), b"{}")
    assert [slide.lacks for slide in Overview(store).slides()] == [("b", "c"), (), ()]
    planted.bag(store, "b")
    store.put(keys.case_slide_key("C", "b"), b"{}")

    assert [slide.lacks for slide in Overview(store).slides()] == [("c",), ("c",), ()]


def test_a_case_that_names_no_slides_is_only_a_label(store):
    planted.scan(store, "a", case_id="C")
    planted.draft(store, "a")

    assert states(store) == {"a": "drafted"}


def test_a_slide_refused_for_its_id_is_listed_beside_the_owner_of_the_id(store):
    planted.letter(store, planted.scan(store, "a", data="other", uri="file:///two/a.svs"), worker="gateway")
    planted.scan(store, "a", uri="file:///one/a.svs")
    planted.draft(store, "a")
    found = {(slide.state, slide.uri) for slide in Overview(store).slides()}

    assert found == {("drafted", "file:///one/a.svs"), ("dead-letter", "file:///two/a.svs")}


def test_a_refused_slide_that_was_taken_in_under_another_id_is_no_longer_listed(store):
    refused = planted.scan(store, "a", data="other", uri="file:///two/a.svs")
    planted.letter(store, refused, worker="gateway")
    planted.scan(store, "a", uri="file:///one/a.svs")
    planted.scan(store, "a-2", data="other", uri="file:///two/a-2.svs")
    store.put(f"{keys.contents_prefix(refused.data.content_id)}e.json", b"{}")

    assert states(store) == {"a": "scanned", "a-2": "scanned"}
    assert [slide.state for slide in Overview(store).slides({"a"})] == ["scanned"]


def test_a_letter_about_bytes_that_were_sent_again_from_elsewhere_is_history(store):
    planted.letter(store, planted.scan(store, "a", uri="file:///inbox/a.svs"))
    planted.scan(store, "a", uri="file:///archive/a.svs", mpp=0.25)

    assert [slide.state for slide in Overview(store).slides()] == ["scanned"]


def test_a_record_that_was_not_an_event_is_listed_as_unknown(store):
    store.put(
        "dead-letter/x.json",
        b'{"schema":1,"event_id":"x","code":"event-type","message":"m","hint":"h","attempts":0,'
        b'"worker":"tiler","position":"t/0/1","sha256":"s","size_bytes":3}',
    )
    (slide,) = Overview(store).slides()

    assert (slide.slide_id, slide.state, slide.uri) == ("unknown", "dead-letter", "")


@pytest.mark.parametrize(
    "junk",
    [b"", b"[]", b"{}", b'{"event": 3}', b'{"event": {"headers": {}, "data": {}}}', b'{"draft": "../x"}'],
)
def test_unreadable_objects_are_reported_and_hide_no_others(store, junk):
    planted.scan(store, "a")
    store.put("slides/b/scanned.json", junk)
    store.put("dead-letter/b.json", junk)
    store.put("reports/a/latest.json", junk)
    store.put("bags/a/x.scan.json", junk)

    assert states(store) == {"a": "scanned", "b": "scanned", "unknown": "dead-letter"}
    first, second, letter = Overview(store).slides()
    assert [one.partition(" ")[0] for one in second.damaged] == ["slides/b/scanned.json"]
    assert [one.partition(" ")[0] for one in first.damaged] == [
        "reports/a/latest.json",
        "bags/a/x.scan.json",
    ]
    assert (letter.letter.code, letter.letter.key) == ("dead-letter-unreadable", "dead-letter/b.json")


def test_an_unchanged_object_is_read_once(store, monkeypatch):
    planted.scan(store, "a")
    planted.draft(store, "a")
    overview = Overview(store)
    before = overview.slides()
    for name in ("get", "find"):
        monkeypatch.setattr(type(store), name, lambda self, key: pytest.fail(f"{key} is read again"))

    assert overview.slides() == before


def test_the_overview_can_be_limited_to_some_slides(store):
    for slide_id in "abc":
        planted.letter(store, planted.scan(store, slide_id))

    assert [slide.slide_id for slide in Overview(store).slides({"b", "nowhere"})] == ["b"]
