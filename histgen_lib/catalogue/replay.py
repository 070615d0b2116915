"""Trying again: dead letters, once a person has fixed what was wrong, and slides that the broker has lost.

To replay a letter, its event is published again under a new id, always the same one; then the letter is moved
to dead-letter-replayed/. A crash in between has the same event published twice, which consumers recognise. A
letter about a bag goes back to the slide that the bag was made of: the tiler finds the bag, or makes it anew
where it was removed or is of another model. A letter of the gateway's is only moved, once its slide was taken
in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from histgen_lib.bus import Publisher
from histgen_lib.catalogue.audit import Audit, this_account
from histgen_lib.catalogue.dead_letter import GATEWAY, DeadLetter, was_taken_in
from histgen_lib.catalogue.keys import LETTERS, letter_key, letter_name, replayed_key
from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.registry import latest_event
from histgen_lib.catalogue.states import SlideState
from histgen_lib.errors import HistgenError, InvalidInputError
from histgen_lib.events import BagReady, Event, SlideScanned
from histgen_lib.storage import JSON, ObjectStore

_ENDING = re.compile(r"\.[0-9a-f]{32}\.json")
"""What follows the id in the key of the letter of an event that others made."""


@dataclass(frozen=True)
class Replayed:
    """What became of one letter: `event` was published, or `refused` says why none could be.

    `put_away`: the slide was taken in, or announced anew, since; the letter is history. `event_id`: the
    letter's name.
    """

    event_id: str
    letter: DeadLetter | None
    event: Event | None = None
    refused: HistgenError | None = None
    put_away: bool = False

    def to_json(self) -> dict[str, object]:
        """Return JSON values."""
        letter = self.letter
        return {
            "event_id": self.event_id,
            "slide_id": letter.event.key if letter and letter.event else None,
            "code": letter and letter.code,
            "new_event_id": self.event and self.event.name,
            "put_away": self.put_away,
            "error": self.refused.to_json() if self.refused else None,
        }


def replay(
    store: ObjectStore,
    publisher: Publisher,
    *,
    code: str | None = None,
    event_ids: Collection[str] | None = None,
    by: str = "",
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Iterator[Replayed]:
    """Replay the dead letters that are there now: those with `code`, or of `event_ids`, or all of them.

    `by`: who asks for it, for the audit log; this account if empty. Yields each letter when it is dealt with;
    letters that cannot be replayed stay where they are. Raises what store and publisher raise; then call it
    again.
    """
    audit, by = Audit(store, now=now), by or this_account()
    for found in choose(store, code=code, event_ids=event_ids):
        if found.refused is None and (letter := found.letter) and letter.event:
            audit.append("replayed", by, {"event_id": letter.event_id, "slide_id": letter.event.key})
        yield _replayed(store, publisher, found, now)


def choose(
    store: ObjectStore, *, code: str | None = None, event_ids: Collection[str] | None = None
) -> Iterator[Replayed]:
    """Yield the letters that `replay` would deal with; `refused` says why one cannot be replayed.

    Each of `event_ids` is the name of a letter, or the id that a sender gave to an event.
    """
    # All are listed before any is moved, so that one that fails again is not met again.
    names = _names(store) if event_ids is None else event_ids
    for event_id in names:
        try:
            name = event_id if event_ids is None else _find_name(store, event_id)
            data = store.find(letter_key(name)) if event_ids is None else store.get(letter_key(name))
            letter = None if data is None else DeadLetter.from_bytes(data)
        except InvalidInputError as error:
            if code is None:
                yield Replayed(event_id, None, refused=error)
            continue
        if letter and code in (None, letter.code):
            away = was_taken_in(store, letter) or _is_history(store, letter)
            yield Replayed(name, letter, refused=None if away else _obstacle(letter), put_away=away)


def _names(store: ObjectStore) -> list[str]:
    return [letter_name(info.key) for info in store.list(LETTERS) if info.key.endswith(".json")]


def _find_name(store: ObjectStore, event_id: str) -> str:
    """Find the name of the letter that is meant. Raises InvalidInputError("replay-ambiguous")."""
    if store.head(letter_key(event_id)):
        return event_id
    keys = [info.key for info in store.list(f"{LETTERS}{event_id}.")]
    found = [letter_name(key) for key in keys if _ENDING.fullmatch(key.removeprefix(LETTERS + event_id))]
    if len(found) > 1:
        raise InvalidInputError(
            "replay-ambiguous",
            f"Several events have the id {event_id}, of different senders or with different contents.",
            hint=f"Name one by its letter: {', '.join(found)}.",
        )
    return found[0] if found else event_id


def _is_history(store: ObjectStore, letter: DeadLetter) -> bool:
    """Whether the same slide was announced anew since: the earlier event must not undo the later one."""
    given_up = letter.event
    if given_up is None or not isinstance(given_up.data, SlideScanned | BagReady):
        return False
    now = latest_event(store, given_up.key)
    if now is None or now.trace_id == given_up.trace_id or now.scanned_at <= given_up.scanned_at:
        return False
    data = now.data
    assert isinstance(data, SlideScanned)
    return data.uri == given_up.data.uri or data.content_id == given_up.data.content_id


def _obstacle(letter: DeadLetter) -> InvalidInputError | None:
    """Return why a letter cannot be replayed; None if it can."""
    if letter.event is None:
        return InvalidInputError(
            "replay-impossible",
            "The record was not an event of ours; its contents were not kept, as they might be anything.",
            hint="Have its sender send it again, as docs/events.md describes.",
        )
    if letter.worker == GATEWAY:
        return InvalidInputError(
            "replay-impossible",
            "The gateway gave this slide up before it announced it.",
            hint="Fix what the letter names, then submit the slide again.",
        )
    return None


def _replayed(
    store: ObjectStore, publisher: Publisher, found: Replayed, now: Callable[[], datetime]
) -> Replayed:
    letter = found.letter
    if found.refused or letter is None or letter.event is None:
        return found
    event = None
    if not found.put_away:
        event = _again(store, letter.event, now())
        try:
            publisher.publish(event.type, event.key, event)
        except InvalidInputError as error:  # too large
            return replace(found, refused=error)
    store.put(replayed_key(letter.event_id), letter.to_bytes(), content_type=JSON)
    store.delete(letter.key)
    return replace(found, event=event)


def _again(store: ObjectStore, given_up: Event, now: datetime) -> Event:
    event = given_up.again(now=now)
    scan = _scan_of(store, given_up) if isinstance(given_up.data, BagReady) else None
    return replace(event, data=scan.data, source=scan.source) if scan else event


def _scan_of(store: ObjectStore, event: Event) -> Event | None:
    """Return the slide.scanned event that another one followed from; None if it is no longer kept."""
    scan = latest_event(store, event.key)
    return scan if scan and scan.trace_id == event.trace_id else None


def unfinished(store: ObjectStore) -> list[SlideState]:
    """Return the slides that were announced and have neither a draft nor a dead letter.

    Those whose event nothing in the store says any more are left out: only their sender has it.
    """
    return [slide for slide in Overview(store).slides() if slide.event and not slide.ended]


def resend(store: ObjectStore, publisher: Publisher, *, by: str = "") -> Iterator[SlideState]:
    """Publish the event of each unfinished slide again as it was: workers recognise one that they still have.

    `by`: see `replay`. Yields each slide when its event is durable. Raises what store and publisher raise;
    then call it again.
    """
    audit, by = Audit(store), by or this_account()
    for slide in unfinished(store):
        assert slide.event is not None
        deed = {"event_id": slide.event.id, "slide_id": slide.slide_id}
        audit.append("announced-again", by, deed)
        publisher.publish(slide.event.type, slide.event.key, slide.event)
        yield slide


def resent_json(slide: SlideState) -> dict[str, object]:
    """Return a slide that `unfinished` or `resend` named as JSON values."""
    return {"slide_id": slide.slide_id, "event_id": slide.event and slide.event.name}
