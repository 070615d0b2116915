"""An event is known by its source, its id and what it says: none is ever taken for another."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from worker_fakes import BAD, NOW, FailingBus, World, scanned, work

from histgen_lib.catalogue.dead_letter import LETTERS, DeadLetter, dead_letters
from histgen_lib.catalogue.keys import REPLAYED_LETTERS
from histgen_lib.catalogue.replay import choose, replay
from histgen_lib.events import BagReady, Event
from histgen_lib.files import canonical_json


def foreign(slide_id: str = "S1", source: str = "/scanner/1", ce_id: str = "17") -> Event:
    return replace(scanned(slide_id), source=source, id=ce_id)


def given_up(world: World) -> set[tuple[str, str, str]]:
    found = [letter.event for letter in dead_letters(world.store)]
    return {(event.source, event.id, event.key) for event in found}


OTHERS = {
    "source": foreign(source="/scanner/2"),
    "data": foreign("S2"),
    "capitals of the source": foreign(source="/Scanner/1"),
    "id": foreign(ce_id="17."),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_events_that_differ_in_anything_are_different_events(world: World, other: Event):
    first, worker = foreign(), world.worker()
    world.runner.results = [BAD, None]
    work(worker, first)
    work(worker, other)
    assert world.runner.handled == [1, 1]
    assert world.bus.ended == ["reject", "done"]
    assert given_up(world) == {(first.source, first.id, first.key)}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_two_events_that_are_given_up_have_a_letter_each(world: World, other: Event):
    first, worker = foreign(), world.worker()
    world.runner.results = [BAD, BAD]
    for event in (first, other, first, other):
        work(worker, event)
    assert given_up(world) == {(event.source, event.id, event.key) for event in (first, other)}
    announced = [
        (reason.letter.data.event_source, reason.letter.data.event_id) for reason in world.bus.rejected
    ]
    assert announced == [(event.source, event.id) for event in (first, other)] * 2
    assert len({reason.letter.id for reason in world.bus.rejected}) == 2


def test_events_that_follow_from_different_events_have_different_ids():
    events = [foreign(), *OTHERS.values()]
    ready = BagReady("S1", "u", "c", "b", "s", "d", 1, 1)
    for one, two in combinations(events, 2):
        assert one.then(ready, source="/histgen/tiler", now=NOW).id != two.then(ready, source="x", now=NOW).id
        assert one.again(now=NOW).id != two.again(now=NOW).id


def test_our_own_ids_remain_the_names_of_their_events():
    ours = scanned()
    assert ours.name == ours.id
    assert foreign(ce_id=ours.id).name != ours.id
    assert replace(ours, id="17").name != "17"


def test_two_events_of_one_id_under_our_own_source_end_separately(world: World):
    """Someone who publishes as us may do so by mistake; neither swallows the other's end."""
    first = scanned("S1")
    second, worker = replace(scanned("S2"), id=first.id), world.worker()
    world.runner.results = [BAD, BAD]
    for event in (first, second, first, second):
        work(worker, event)
    assert {key for _, _, key in given_up(world)} == {"S1", "S2"}
    world.runner.written = {"S2"}
    work(worker, second)
    assert {key for _, _, key in given_up(world)} == {"S1"}


def old_letter(world: World, event: Event) -> str:
    """Leave a letter as earlier versions did: by the event's id alone."""
    letter = replace(DeadLetter.of_event(event, BAD, attempts=1, worker="w"), event_id=event.id)
    world.store.put(letter.key, letter.to_bytes())
    world.store.put(f"attempts/w/{event.id}/1", b"m")
    return letter.key


def test_the_letter_of_an_earlier_version_is_found_by_its_own_event_alone(world: World):
    event, worker = foreign(), world.worker()
    key = old_letter(world, event)
    work(worker, event)
    assert world.runner.handled == []
    assert world.bus.ended == ["reject"]
    work(worker, OTHERS["source"])
    assert world.bus.ended == ["reject", "done"]
    assert world.store.under(LETTERS) == [key]


def test_a_finished_object_outweighs_the_letter_of_an_earlier_version_too(world: World):
    event = foreign()
    old_letter(world, event)
    world.runner.written = {event.key}
    work(world.worker(), event)
    assert world.bus.ended == ["done"]
    assert world.store.under(LETTERS) == []


def test_an_unreadable_letter_belongs_to_no_event(world: World):
    event = foreign()
    world.store.put(f"{LETTERS}{event.name}.json", b"{")
    world.store.put(f"{LETTERS}{event.id}.json", canonical_json({"schema": 9}))
    work(world.worker(), event)
    assert world.bus.ended == ["done"]


def test_a_letter_is_replayed_by_its_name_or_by_an_unambiguous_id(world: World):
    first, other = foreign(), OTHERS["source"]
    world.runner.results = [BAD, BAD, BAD]
    for event in (first, other, foreign(ce_id="18")):
        work(world.worker(), event)
    (both,) = choose(world.store, event_ids=["17"])
    assert both.refused.code == "replay-ambiguous"
    assert first.name in both.refused.hint
    (one,) = choose(world.store, event_ids=["18"])
    assert one.letter.event.id == "18"
    bus = FailingBus()
    (done,) = replay(world.store, bus, event_ids=[first.name])
    assert (done.event.source, done.event.replay) == (first.source, 1)
    assert world.store.under(REPLAYED_LETTERS) == [f"{REPLAYED_LETTERS}{first.name}.json"]
    assert first not in [letter.event for letter in dead_letters(world.store)]
