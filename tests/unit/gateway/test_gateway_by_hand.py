"""Slides that someone else published: the tiler records them by the same rules as the gateway."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import planted_objects as planted
import pytest
from folding_store import FoldingStore
from gateway_fakes import GatewayLab

from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.registry import keep, take_in
from histgen_lib.catalogue.replay import replay
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event, SlideScanned
from histgen_lib.files import sha256_hex


def by_hand(path: Path, *, source: str = "lab/scanner-1", ce_id: str = "17", **fields) -> Event:
    """Make the event of a foreign producer."""
    data = path.read_bytes()
    known = {
        "slide_id": path.stem,
        "uri": path.as_uri(),
        "content_id": sha256_hex(data),
        "size_bytes": len(data),
    }
    event = Event.first(SlideScanned(**known | fields), source=source, now=planted.NOON, identity="")
    return replace(event, id=ce_id)


def drafted_by_hand(store, event: Event) -> SlideScanned:
    """Do what the tiler does before and after it reads a slide."""
    data = take_in(store, event)
    keep(store, event, data)
    return data


def code_of(store, event: Event) -> str:
    with pytest.raises(InvalidInputError) as caught:
        take_in(store, event)
    return caught.value.code


def states(store) -> dict[str, str]:
    return {slide.slide_id: slide.state for slide in Overview(store).slides()}


def test_a_slide_is_in_the_overview_once_the_tiler_takes_it(lab: GatewayLab):
    event = by_hand(lab.file("a.svs"))
    assert states(lab.store) == {}
    take_in(lab.store, event)
    assert states(lab.store) == {"a": "scanned"}
    (slide,) = Overview(lab.store).slides({"a"})
    assert (slide.event, slide.uri) == (event, event.data.uri)
    planted.letter(lab.store, event)
    assert states(lab.store) == {"a": "dead-letter"}


def test_its_letter_is_found_through_any_number_of_replays(lab: GatewayLab):
    event = by_hand(lab.file("a.svs"))
    take_in(lab.store, event)
    for _ in range(3):
        planted.letter(lab.store, event)
        (replayed,) = replay(lab.store, lab.bus)
        event = replayed.event
        take_in(lab.store, event)
        assert states(lab.store) == {"a": "scanned"}
    planted.letter(lab.store, event)
    scans = [Overview(lab.store).scan_of("a")]
    assert [slide.letter.event.replay for slide in Overview(lab.store).named(scans)] == [3]


def test_the_gateway_then_knows_the_slide(lab: GatewayLab):
    path = lab.file("a.svs")
    drafted_by_hand(lab.store, by_hand(path))
    assert lab.submit(path).status == "duplicate"
    assert lab.submit(lab.file("b/a.svs", b"other")).letter.code == "slide-id-taken"


def test_a_rescan_is_the_latest_and_the_first_scan_repeated_is_not(lab: GatewayLab):
    first = by_hand(lab.file("a.svs", b"one"))
    second = by_hand(lab.file("a.svs", b"two"), ce_id="18")
    turns = [take_in(lab.store, event).turn for event in (first, second, first, second)]
    assert turns == [0, 1, 0, 1]
    assert Overview(lab.store).slides()[0].event == second


def test_later_turns_are_later_whichever_way_a_slide_comes(lab: GatewayLab):
    path = lab.file("a.svs", b"one")
    lab.submit(path)
    take_in(lab.store, lab.bus.scanned[0])
    data = take_in(lab.store, by_hand(lab.file("a.svs", b"two")))
    lab.submit(lab.file("a.svs", b"three"))
    assert (data.turn, lab.bus.scanned[-1].data.turn) == (1, 2)


def test_the_gateway_alone_records_what_it_announced(lab: GatewayLab):
    lab.submit(lab.file("a.svs", b"one"))
    lab.submit(lab.file("a.svs", b"two"))
    before = dict(lab.store.kept)
    for event in lab.bus.scanned:
        assert take_in(lab.store, event) == event.data
    assert lab.store.kept == before


@pytest.mark.parametrize("first", ["gateway", "by hand"])
def test_two_slides_of_one_id_from_two_scanners_are_never_mixed(lab: GatewayLab, first: str):
    path, other = lab.file("one/a.svs", b"one"), lab.file("two/a.svs", b"two")
    if first == "gateway":
        lab.submit(path)
    else:
        drafted_by_hand(lab.store, by_hand(path))
    assert code_of(lab.store, by_hand(other, source="lab/scanner-2")) == "slide-id-taken"
    assert Overview(lab.store).slides()[0].uri == path.as_uri()


def test_an_unreadable_slide_takes_no_id_from_the_slide_that_owns_it(lab: GatewayLab):
    take_in(lab.store, by_hand(lab.file("nowhere/a.svs", b"junk")))
    assert lab.submit(lab.file("a.svs")).letter is None
    assert lab.submit(lab.file("a.svs")).status == "duplicate"
    assert Overview(lab.store).slides()[0].event == lab.bus.scanned[-1]


def test_an_event_that_names_the_bytes_of_another_slide_is_not_that_slide(lab: GatewayLab):
    """Otherwise the slide would be taken for a copy of one that does not exist."""
    other = lab.file("b.svs", b"real")
    claimed = by_hand(lab.file("junk.svs", b"junk"), slide_id="a", content_id=sha256_hex(b"real"))
    take_in(lab.store, claimed)
    planted.letter(lab.store, claimed)
    receipt = lab.submit(other)
    assert (receipt.slide_id, receipt.status) == ("b", "accepted")


def test_a_given_up_event_that_comes_again_is_not_the_latest(lab: GatewayLab):
    first = by_hand(lab.file("a.svs", b"one"))
    second = by_hand(lab.file("a.svs", b"two"), ce_id="18")
    for event in (first, second, first):
        take_in(lab.store, event)
    assert Overview(lab.store).slides()[0].event == second


def test_the_slide_that_was_read_first_keeps_the_id(lab: GatewayLab):
    event = by_hand(lab.file("one/a.svs", b"one"))
    late = take_in(lab.store, event)
    lab.submit(lab.file("two/a.svs", b"two"))
    with pytest.raises(InvalidInputError) as caught:
        keep(lab.store, event, late)
    assert caught.value.code == "slide-id-taken"


def test_earlier_bytes_of_a_slide_are_its_own_wherever_they_are(lab: GatewayLab):
    for data in (b"one", b"two"):
        lab.submit(lab.file("a.svs", data))
    assert take_in(lab.store, by_hand(lab.file("archive/a.svs", b"two"))).slide_id == "a"


@pytest.mark.parametrize(
    "name", ["a ", " a", "a.", "a\N{RIGHT-TO-LEFT OVERRIDE}gvs", "e\N{COMBINING ACUTE ACCENT}"]
)
@pytest.mark.parametrize("field", ["slide_id", "case_id", "case_slides"])
def test_a_name_that_looks_like_another_is_refused(lab: GatewayLab, name: str, field: str):
    fields = {"case_id": "C", "case_slides": ("a",)} | {
        field: (name, "a") if field == "case_slides" else name
    }
    assert code_of(lab.store, by_hand(lab.file("a.svs"), **fields)) == "slide-id-invalid"
    assert lab.store.kept == {}


@pytest.mark.parametrize("other", ["A", "\N{LATIN SMALL LETTER A WITH GRAVE}"])
def test_a_store_that_ignores_capitals_refuses_a_second_slide_at_every_entry(lab: GatewayLab, other: str):
    """The ids differ only in case, or in a character that every store distinguishes."""
    distinct = other != "A"
    lab.store = FoldingStore(lab.store)
    lab.restarted()
    path = lab.file("a.svs", b"one")
    lab.submit(path)
    receipt = lab.submit(path, slide_id="A") if not distinct else lab.submit(lab.file("b.svs", b"two"))
    by = by_hand(lab.file("two/x.svs", b"three"), slide_id=other)
    if distinct:
        assert take_in(lab.store, by).slide_id == other
        return
    assert receipt.letter.code == "slide-id-taken"
    assert code_of(lab.store, by) == "slide-id-taken"
    assert [slide.slide_id for slide in Overview(lab.store).slides() if slide.event] == ["a"]


def test_letters_of_slides_that_share_a_trace_stay_with_their_own(lab: GatewayLab):
    """Some senders give every event the same traceparent."""
    events = [
        replace(by_hand(lab.file(f"{name}.svs", name)), traceparent=f"00-{'1' * 32}-{'2' * 16}-01")
        for name in "ab"
    ]
    for event in events:
        take_in(lab.store, event)
    planted.letter(lab.store, events[0])
    assert states(lab.store) == {"a": "dead-letter", "b": "scanned"}
    rescan = replace(by_hand(lab.file("a.svs", b"new"), ce_id="18"), traceparent=events[0].traceparent)
    take_in(lab.store, rescan)
    assert states(lab.store) == {"a": "scanned", "b": "scanned"}


def test_a_letter_of_a_slide_announced_again_since_undoes_nothing(lab: GatewayLab):
    path = lab.file("a.svs")
    lab.submit(path)
    planted.letter(lab.store, lab.bus.scanned[0])
    lab.submit(path, mpp=0.25)
    (put_away,) = replay(lab.store, lab.bus)
    assert (put_away.put_away, put_away.event) == (True, None)
    assert [event.data.mpp for event in lab.bus.scanned] == [None, 0.25]
    assert [slide.letter for slide in Overview(lab.store).slides()] == [None]


@pytest.mark.parametrize("left", [None, b"", b"{}", b'{"uri": 3}'])
def test_an_id_with_an_unreadable_owner_stays_with_the_slide_that_was_read(lab: GatewayLab, left):
    drafted_by_hand(lab.store, by_hand(lab.file("a.svs", b"first")))
    del lab.store.kept["gateway/owners/a"]
    if left is not None:
        lab.store.kept["gateway/owners/a"] = left
    before = dict(lab.store.kept)
    other = by_hand(lab.file("other/a.svs", b"second"), source="lab/scanner-2")

    assert code_of(lab.store, other) == "slide-id-taken"
    assert lab.store.kept == before
    drafted_by_hand(lab.store, by_hand(lab.file("a.svs", b"first")))
    assert code_of(lab.store, other) == "slide-id-taken"
