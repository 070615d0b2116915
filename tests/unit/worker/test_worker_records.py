"""A record ends itself, whatever it is and whatever it leads to, and never the worker."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from worker_fakes import BAD, EVENT, FIRST, LETTER, NOW, World, delivery, drafted, work

from histgen_lib.catalogue.dead_letter import DeadLetter, read_dead_letter
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event, SlideScanned


def test_a_record_that_is_no_event_is_refused_and_its_bytes_not_repeated(world: World):
    worker = world.worker()
    worker.refuse(delivery(None, offset=7, raw=b"DOE^JANE"))
    worker.refuse(delivery(None, offset=7, raw=b"DOE^JANE"))
    (key,) = world.store.under("dead-letter/")
    assert b"DOE" not in world.store.objects[key]
    stored = json.loads(world.store.objects[key])
    assert (stored["position"], stored["size_bytes"], stored["code"]) == (
        "slide.scanned/0/7",
        8,
        "event-unreadable",
    )
    assert {reason.letter.id for reason in world.bus.rejected} == {world.bus.rejected[0].letter.id}


def test_different_bytes_at_one_place_have_letters_of_their_own(world: World):
    """A broker that was made anew counts its records from 0 again."""
    worker = world.worker()
    worker.refuse(delivery(None, raw=b"one"))
    worker.refuse(delivery(None, raw=b"two"))
    assert len(world.store.under("dead-letter/")) == 2


def test_an_event_on_the_wrong_topic_is_given_up(world: World):
    worker = world.worker()
    worker.refuse(delivery(drafted(EVENT)))
    assert [reason.code for reason in world.bus.rejected] == ["event-misplaced"]


TOO_LARGE = InvalidInputError("event-too-large", "It is too large.")


def test_an_outcome_that_cannot_be_published_is_given_up_although_its_objects_exist(world: World):
    world.bus.fail("publish", *[TOO_LARGE] * 9)
    worker = world.worker()
    work(worker)
    work(world.worker())  # it comes again
    assert read_dead_letter(world.store, EVENT.id).code == "event-too-large"
    assert world.runner.handled == [1]
    assert world.bus.ended == ["reject", "reject"]
    assert world.store.under("attempts/") == [FIRST]


def test_an_outcome_found_while_giving_up_that_cannot_be_published_is_given_up(world: World):
    world.bus.fail("publish", *[TOO_LARGE] * 9)

    def overtaken_and_bad() -> None:
        world.runner.written.add(EVENT.key)
        raise BAD

    world.runner.results = [overtaken_and_bad]
    work(world.worker())
    assert LETTER in world.store.objects
    assert world.bus.ended == ["reject"]


@pytest.mark.parametrize("where", ["find", "handle", "publish", "get"])
def test_an_unexpected_exception_ends_the_record_and_not_the_worker(world: World, where: str):
    """Each time it is tried, whatever part of the worker it comes from."""
    wrong = [RuntimeError("DOE^JANE") for _ in range(9)]
    if where == "find":
        world.runner.on_find = list(wrong[:3])
    elif where == "handle":
        world.runner.results = wrong
    elif where == "publish":
        world.bus.fail("publish", *wrong)
    else:
        world.worker().attempts.begin(EVENT.id, 3)
        world.store.fail("get", *wrong[:2])
    work(world.worker())
    if where == "get":
        assert world.bus.ended == ["done"]
        return
    letter = world.store.objects[LETTER]
    assert json.loads(letter)["code"] == "job-failed"
    assert b"RuntimeError" in letter
    assert b"DOE" not in letter
    assert world.bus.ended == ["reject"]


def test_an_event_whose_attempt_cannot_be_counted_is_given_up(world: World):
    """No store could hold an object of its name."""
    put = world.store.put
    world.store.put = lambda key, data, **more: _refuse(key) if "attempts" in key else put(key, data, **more)
    work(world.worker())
    assert read_dead_letter(world.store, EVENT.id).code == "object-key"
    assert world.bus.ended == ["reject"]


def _refuse(_: str) -> bool:
    raise InvalidInputError("object-key", "The store does not take it.")


def test_a_letter_that_is_removed_while_it_is_looked_for_is_none(world: World):
    """A person has it tried again in this moment."""
    world.runner.results = [BAD]
    worker = world.worker()
    work(worker)
    head = world.store.head
    world.store.head = lambda key: (head(key), world.store.objects.pop(key, None))[0]
    del world.store.objects[LETTER]
    work(worker)
    assert world.bus.ended == ["reject", "done"]


@pytest.mark.parametrize("size", [1, 890_000])
def test_the_announcement_of_a_dead_letter_is_small_however_large_its_event(size: int):
    slide_id, slides = "\u2028" * 66, tuple("s" * 100 for _ in range(size // 100))
    data = SlideScanned(slide_id, "file:///a", "c" * 64, 10, case_id="c" * 200, case_slides=slides)
    event = replace(Event.first(data, source="/" + "s" * 255, now=NOW, identity="x"), id="i" * 128)
    letter = DeadLetter.of_event(event, BAD, attempts=1, worker="w")
    announcement = letter.announcement(source="/w", now=NOW)
    assert len(announcement.body()) + sum(map(len, announcement.headers().values())) < 4096
    assert DeadLetter.from_bytes(letter.to_bytes()) == letter
