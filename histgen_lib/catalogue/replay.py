"""Having dead letters tried again, after a person has mended what was wrong.

A letter's event is published again under a new id, always the same one; then the letter is moved to
dead-letter-replayed/. A crash in between has the same event published twice, which consumers recognise. A
letter about a bag goes back to the slide it was made of: the tiler finds the bag, or makes it anew where it
was removed, or is another model's. A letter of the gateway's is only moved, once its slide was taken in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from histgen_lib.bus import Publisher
from histgen_lib.catalogue.audit import Audit, this_account
from histgen_lib.catalogue.dead_letter import PREFIX, DeadLetter, letter_key, letter_name, readable_letter
from histgen_lib.catalogue.keys import contents_prefix
from histgen_lib.catalogue.objects import JSON
from histgen_lib.catalogue.recall import recorded_of
from histgen_lib.errors import HistgenError, InvalidInputError
from histgen_lib.events import (
    BAG_READY,
    BagReady,
    Event,
    SlideScanned,
    following_id,
    replay_id,
)
from histgen_lib.storage import ObjectStore

REPLAYED_PREFIX = "dead-letter-replayed/"
_ENDING = re.compile(r"\.[0-9a-f]{32}\.json")
"""What follows the id in the key of a letter of an event that was not made by us."""
GATEWAY = "gateway"
"""What it gives up was never published: it has to take the slide in again, and check it again."""


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

    `by`: who has it done, for the audit log; this account if that is not stated. Yields each letter when it
    is dealt with; letters that cannot be replayed stay where they are. Raises what store and publisher raise;
    then call it again.
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

    Of `event_ids` each is the name of a letter, or the id that a sender gave to an event.
    """
    for event_id in _ids(store) if event_ids is None else event_ids:
        try:
            name = event_id if event_ids is None else _meant(store, event_id)
            data = store.find(letter_key(name)) if event_ids is None else store.get(letter_key(name))
            letter = None if data is None else DeadLetter.from_bytes(data)
        except InvalidInputError as error:
            if code is None:
                yield Replayed(event_id, None, refused=error)
            continue
        if letter and code in (None, letter.code):
            away = taken_in(store, letter) or _is_history(store, letter)
            yield Replayed(name, letter, refused=None if away else _obstacle(letter), put_away=away)


def _meant(store: ObjectStore, event_id: str) -> str:
    """Find the letter that is meant. Raises InvalidInputError("replay-ambiguous")."""
    if store.head(letter_key(event_id)):
        return event_id
    keys = [info.key for info in store.list(f"{PREFIX}{event_id}.")]
    found = [letter_name(key) for key in keys if _ENDING.fullmatch(key.removeprefix(PREFIX + event_id))]
    if len(found) > 1:
        raise InvalidInputError(
            "replay-ambiguous",
            f"Several events have the id {event_id}, of other senders or other contents.",
            hint=f"Name one by its letter: {', '.join(found)}.",
        )
    return found[0] if found else event_id


def _is_history(store: ObjectStore, letter: DeadLetter) -> bool:
    """Whether the same slide was announced anew since: the earlier event must not undo what was said then."""
    given_up = letter.event
    if given_up is None or not isinstance(given_up.data, SlideScanned | BagReady):
        return False
    now = recorded_of(store, given_up.key)
    if now is None or now.trace_id == given_up.trace_id or now.scanned_at <= given_up.scanned_at:
        return False
    data = now.data
    assert isinstance(data, SlideScanned)
    return data.uri == given_up.data.uri or data.content_id == given_up.data.content_id


def _ids(store: ObjectStore) -> list[str]:
    """List the letters before any is moved, so that one which fails again is not met again."""
    return [letter_name(info.key) for info in store.list(PREFIX) if info.key.endswith(".json")]


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
    store.put(_replayed_key(letter.event_id), letter.to_bytes(), content_type=JSON)
    store.delete(letter.key)
    return replace(found, event=event)


def _again(store: ObjectStore, given_up: Event, now: datetime) -> Event:
    event = given_up.again(now=now)
    scan = _scan_of(store, given_up) if isinstance(given_up.data, BagReady) else None
    return replace(event, data=scan.data, source=scan.source) if scan else event


def _scan_of(store: ObjectStore, event: Event) -> Event | None:
    """Look up the slide.scanned event that another followed from; None if it is kept no more."""
    scan = recorded_of(store, event.key)
    return scan if scan and scan.trace_id == event.trace_id else None


def letter_ids(store: ObjectStore, scan: Event) -> list[str]:
    """Name the events under which a slide's scan may have a dead letter now.

    They are the scan's own, its bag's, and those that came of them when a person had them tried again; what
    each is called follows from the one before, so nothing is listed.
    """
    found, scans = [], [scan]
    while scans:
        scan = scans.pop()
        for name in (scan.name, following_id(scan.name, BAG_READY)):
            found.append(name)
            if store.head(_replayed_key(name)):
                scans.append(replace(scan, id=replay_id(name)))
    return found


def letter_of_scan(store: ObjectStore, scan: Event) -> DeadLetter | None:
    """Find the dead letter that an announced slide ended in, in the tiler, the reporter or a replay."""
    found = [letter for name in letter_ids(store, scan) if (letter := readable_letter(store, name))]
    return max(found, key=lambda letter: letter.event.replay if letter.event else 0, default=None)


def _replayed_key(event_id: str) -> str:
    return f"{REPLAYED_PREFIX}{event_id}.json"


def taken_in(store: ObjectStore, letter: DeadLetter) -> bool:
    """Whether a slide that the gateway had refused was announced after all, under whatever id."""
    data = letter.event.data if letter.event else None
    if letter.worker != GATEWAY or not isinstance(data, SlideScanned):
        return False
    return any(store.list(contents_prefix(data.content_id)))


def _obstacle(letter: DeadLetter) -> InvalidInputError | None:
    """Say why a letter cannot be replayed; None if it can."""
    if letter.event is None:
        return InvalidInputError(
            "replay-impossible",
            "The record was no event of ours; what it held is not kept, as it might have been anything.",
            hint="Have its sender send it again, as docs/events.md describes.",
        )
    if letter.worker == GATEWAY:
        return InvalidInputError(
            "replay-impossible",
            "The gateway gave this slide up before it announced it.",
            hint="Mend what the letter names, then submit the slide again.",
        )
    return None
