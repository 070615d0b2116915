"""Dead letters are read back as they were written, and hold nothing of what nobody could read."""

from __future__ import annotations

import json

import pytest
from worker_fakes import BAD, EVENT, NOW, FailingStore, delivery

from histgen_lib.catalogue.dead_letter import DeadLetter, dead_letters, read_dead_letter
from histgen_lib.errors import InvalidInputError


def _letters() -> list[DeadLetter]:
    unreadable = delivery(None, raw=b"DOE^JANE")
    return [
        DeadLetter.of_event(EVENT, BAD, attempts=1, worker="w"),
        DeadLetter.of_record(unreadable, unreadable.unreadable, worker="w"),
    ]


@pytest.mark.parametrize("letter", _letters(), ids=["event", "record"])
def test_a_letter_is_read_as_it_was_written(letter: DeadLetter):
    store = FailingStore()
    store.put(letter.key, letter.to_bytes())
    assert read_dead_letter(store, letter.event_id) == letter
    assert list(dead_letters(store)) == [letter]


@pytest.mark.parametrize("letter", _letters(), ids=["event", "record"])
def test_the_same_reason_gives_the_same_bytes_and_the_same_announcement(letter: DeadLetter):
    again = DeadLetter.from_bytes(letter.to_bytes())
    assert again.to_bytes() == letter.to_bytes()
    announcements = [one.announcement(source="/histgen/test", now=NOW) for one in (letter, again)]
    assert announcements[0].id == announcements[1].id
    assert announcements[0].data == announcements[1].data


def test_a_missing_letter_is_none():
    assert read_dead_letter(FailingStore(), "e") is None


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b'{"schema": 2}', b"\xff", b'{"schema": 1}'])
def test_an_object_that_is_no_letter_is_reported_as_such(data: bytes):
    with pytest.raises(InvalidInputError) as caught:
        DeadLetter.from_bytes(data)
    assert caught.value.code == "dead-letter-unreadable"


@pytest.mark.parametrize("event_id", ["../reports/a", "a/../../b", "x" * 2000, "a\nb"])
def test_an_id_that_no_key_can_contain_has_no_letter(event_id):
    """Its key is looked up by those who report it."""
    value = json.loads(_letters()[0].to_bytes()) | {"event_id": event_id}
    with pytest.raises(InvalidInputError) as caught:
        DeadLetter.from_bytes(json.dumps(value).encode())
    assert caught.value.code == "dead-letter-unreadable"


def test_a_letter_whose_event_is_damaged_is_no_letter():
    value = json.loads(_letters()[0].to_bytes())
    del value["event"]["data"]["uri"]
    with pytest.raises(InvalidInputError) as caught:
        DeadLetter.from_bytes(json.dumps(value).encode())
    assert caught.value.code == "dead-letter-unreadable"
