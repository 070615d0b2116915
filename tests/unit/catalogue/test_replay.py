"""Dead letters are tried again after a fix: each once, whatever crashes, and only those that can be."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from job_kit import Killed, WatchedStore

from histgen_lib.bus import Delivery
from histgen_lib.catalogue.audit import Entry
from histgen_lib.catalogue.dead_letter import DeadLetter, dead_letters
from histgen_lib.catalogue.keys import REPLAYED_LETTERS
from histgen_lib.catalogue.replay import replay
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.events import Event, SlideScanned
from histgen_lib.testing import MemoryBus, MemoryStore

NOW = datetime(2026, 5, 4, tzinfo=UTC)


@pytest.fixture
def store():
    return WatchedStore(MemoryStore())


@pytest.fixture
def bus():
    return MemoryBus()


def give_up(store, slide_id: str, code: str = "slide-damaged", worker: str = "tiler") -> Event:
    data = SlideScanned(slide_id, f"file:///{slide_id}.svs", "c" * 64, 10)
    event = Event.first(data, source="/histgen/test", now=NOW, identity=slide_id)
    letter = DeadLetter.of_event(event, InvalidInputError(code, "No."), attempts=1, worker=worker)
    store.put(letter.key, letter.to_bytes())
    return event


def give_up_record(store) -> str:
    delivery = Delivery("slide.scanned", 3, 14, b"not an event")
    letter = DeadLetter.of_record(delivery, InvalidInputError("event-unreadable", "No."), worker="tiler")
    store.put(letter.key, letter.to_bytes())
    return letter.event_id


def run(store, bus, **chosen):
    return list(replay(store, bus, now=lambda: NOW, **chosen))


def test_an_event_is_published_again_under_an_id_that_follows_from_its_own(store, bus):
    event = give_up(store, "a")
    (replayed,) = run(store, bus)

    assert bus.published == [event.again(now=NOW)] == [replayed.event]
    assert (replayed.event.replay, replayed.event.data, replayed.event.trace_id) == (
        1,
        event.data,
        event.trace_id,
    )
    assert replayed.refused is None


def test_an_event_that_the_broker_refuses_stays_and_the_others_are_replayed(store, bus):
    """Written again it may have grown: what came as two bytes may go as six."""
    large, others = give_up(store, "b"), [give_up(store, name) for name in ("a", "c")]
    publish = bus.publish

    def sized(topic, key, event) -> None:
        if key == "b":
            raise InvalidInputError("event-too-large", "It is too large.")
        publish(topic, key, event)

    bus.publish = sized
    refused = {replayed.event_id: replayed.refused.code for replayed in run(store, bus) if replayed.refused}

    assert refused == {large.id: "event-too-large"}
    assert {event.key for event in bus.published} == {event.key for event in others}
    assert [letter.event_id for letter in dead_letters(store)] == [large.id]


def test_a_replayed_letter_is_moved(store, bus):
    event = give_up(store, "a")
    letter = store.get(f"dead-letter/{event.id}.json")
    run(store, bus)

    assert store.contents("dead-letter") == {f"{REPLAYED_LETTERS}{event.id}.json": letter}
    assert run(store, bus) == []


def test_only_letters_with_the_code_are_replayed(store, bus):
    expected = {give_up(store, name).id for name in "ab"}
    other = give_up(store, "c", "slide-missing")
    replayed = run(store, bus, code="slide-damaged")

    assert {one.event_id for one in replayed} == expected
    assert [letter.event_id for letter in dead_letters(store)] == [other.id]


def test_only_the_named_letters_are_replayed(store, bus):
    first, second = give_up(store, "a"), give_up(store, "b")
    replayed = run(store, bus, event_ids=[second.id, "no-such-letter"])

    assert [(one.event_id, one.refused and one.refused.code) for one in replayed] == [
        (second.id, None),
        ("no-such-letter", "object-missing"),
    ]
    assert [letter.event_id for letter in dead_letters(store)] == [first.id]


def test_a_record_that_was_not_an_event_cannot_be_replayed_and_stays(store, bus):
    event_id = give_up_record(store)
    (replayed,) = run(store, bus)

    assert (replayed.event_id, replayed.event, replayed.refused.code) == (event_id, None, "replay-impossible")
    assert store.head(f"dead-letter/{event_id}.json")
    assert bus.published == []


def test_a_replay_does_not_publish_what_the_gateway_refused(store, bus):
    """A slide under another's id was never announced: publishing it would mix two slides."""
    give_up(store, "a", "slide-id-taken", worker="gateway")
    (replayed,) = run(store, bus, code="slide-id-taken")

    assert replayed.refused.code == "replay-impossible"
    assert "submit" in replayed.refused.hint
    assert bus.published == []


def test_a_letter_of_the_gateway_is_put_away_once_the_slide_was_taken_in(store, bus):
    event = give_up(store, "a", "slide-id-taken", worker="gateway")
    store.put(f"gateway/contents/{event.data.content_id}/e.json", b"{}")
    (replayed,) = run(store, bus)

    assert (replayed.event, replayed.refused) == (None, None)
    assert bus.published == []
    assert list(dead_letters(store)) == []
    assert store.head(f"dead-letter-replayed/{event.id}.json")


def test_a_letter_that_cannot_be_read_is_reported_and_does_not_stop_the_others(store, bus):
    store.put("dead-letter/0.json", b"{}")
    event = give_up(store, "a")
    replayed = {one.event_id: one for one in run(store, bus)}

    assert replayed["0"].refused.code == "dead-letter-unreadable"
    assert replayed[event.id].event is not None


def test_a_letter_is_not_moved_before_its_event_is_published(store, bus):
    event = give_up(store, "a")
    bus.error = TransientError("bus-unavailable", "Away.")
    with pytest.raises(TransientError):
        run(store, bus)
    assert list(store.contents("dead-letter")) == [f"dead-letter/{event.id}.json"]


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_after_a_crash_an_event_is_replayed_under_the_same_id(store, bus, monkeypatch, writes):
    give_up(store, "a")
    store.dies_after = writes
    monkeypatch.setattr(store, "delete", lambda key: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(store, bus)
    store.dies_after = None
    monkeypatch.undo()
    run(store, bus)

    assert len({event.id for event in bus.published}) == 1
    assert [key.split("/")[0] for key in store.contents("dead-letter")] == ["dead-letter-replayed"]


def test_the_audit_log_says_who_replays_a_letter_before_it_is_published(store, bus):
    event = give_up(store, "a")
    give_up_record(store)  # refused: nobody replayed it
    bus.error = TransientError("bus-unavailable", "Away.")
    with pytest.raises(TransientError):
        run(store, bus, by="someone")

    (entry,) = [Entry.from_bytes(data) for data in store.contents("audit/").values()]
    assert (entry.action, entry.by) == ("replayed", "someone")
    assert entry.what == {"event_id": event.id, "slide_id": "a"}


def test_a_letter_that_arrives_during_a_replay_waits_for_the_next_one(store, bus):
    """Else an event that fails at once would be replayed forever."""
    give_up(store, "a")
    replayed = []
    for one in replay(store, bus, now=lambda: NOW):
        replayed.append(one)
        give_up(store, f"again-{len(replayed)}")
    assert len(replayed) == 1
