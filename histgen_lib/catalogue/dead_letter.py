"""Dead letters: which event could not be processed, why, and all that it takes to try again.

A letter lies at dead-letter/<name>.json, by the event's name (`Event.name`); those of earlier versions lie by
the event's id alone, and are found there. No event's letter is taken for another's. Of a record that is not
an event of ours neither bytes nor headers are kept, as they may hold anything: its place, size and digest
tell a person where to look. A letter that was replayed lies at dead-letter-replayed/<name>.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from histgen_lib.bus import Delivery
from histgen_lib.catalogue.keys import LETTERS, contents_prefix, letter_key, letter_name, replayed_key
from histgen_lib.errors import HistgenError, InvalidInputError
from histgen_lib.events import (
    DeadLettered,
    Event,
    SlideScanned,
    following_id,
    following_names,
    following_types,
    replay_id,
)
from histgen_lib.files import sealed_json, sha256_hex, unsealed
from histgen_lib.storage import JSON, ObjectStore, check_key

SCHEMA = 1
UNREADABLE = "dead-letter-unreadable"
UNKNOWN = "unknown"
"""Stands for the slide's id where the record could not be read."""
GATEWAY = "gateway"
"""The worker named in letters of events that the gateway gave up and never published."""


@dataclass(frozen=True)
class DeadLetter:
    """An event that `worker` gave up after `attempts`. `record` instead of `event`: see `of_record`.

    `event_id`: the name under which it is stored.
    """

    event_id: str
    code: str
    message: str
    hint: str
    attempts: int
    worker: str
    event: Event | None = None
    record: Mapping[str, str | int] | None = None

    @classmethod
    def of_event(cls, event: Event, reason: HistgenError, *, attempts: int, worker: str) -> DeadLetter:
        """Give up an event."""
        return cls(event.name, reason.code, reason.message, reason.hint, attempts, worker, event=event)

    @classmethod
    def of_record(cls, delivery: Delivery, reason: HistgenError, *, worker: str) -> DeadLetter:
        """Give up a record that is not an event of ours; its id follows from its place and its bytes."""
        digest = sha256_hex(delivery.raw)
        record: dict[str, str | int] = {
            "position": delivery.position,
            "sha256": digest,
            "size_bytes": len(delivery.raw),
        }
        name = sha256_hex(f"{delivery.position}|{digest}".encode())[:32]
        return cls(name, reason.code, reason.message, reason.hint, 0, worker, record=record)

    @classmethod
    def unreadable(cls, key: str, size_bytes: int, event: Event | None = None) -> DeadLetter:
        """Stand in for a letter that cannot be read, but is known to be there."""
        return cls(
            letter_name(key),
            UNREADABLE,
            "The dead letter is damaged, or of another version: what was wrong is no longer known.",
            "Have the slide tried again: histgen verify --repair.",
            attempts=0,
            worker=UNKNOWN,
            event=event,
            record={"position": key, "sha256": "", "size_bytes": size_bytes},
        )

    @property
    def key(self) -> str:
        """Its key."""
        return letter_key(self.event_id)

    def is_of(self, event: Event) -> bool:
        """Whether it is of this very event, and not of another of the same source and id."""
        return self.event is not None and self.event.full_name == event.full_name

    def announcement(self, *, source: str, now: datetime) -> Event:
        """Make the event that announces it; the same letter always gives the same id."""
        event = self.event
        if event is None:
            data = DeadLettered(UNKNOWN, self.event_id, UNKNOWN, self.code, self.key)
            return Event.first(data, source=source, now=now, identity=self.event_id)
        slide_id = event.key if event.key == event.data.slide_id else UNKNOWN
        data = DeadLettered(slide_id, event.id, event.type, self.code, self.key, event.source)
        announced = event.then(data, source=source, now=now)
        if self.event_id == event.name:
            return announced
        return replace(announced, id=following_id(self.event_id, data.type))

    def to_bytes(self) -> bytes:
        """Canonical JSON, sealed."""
        content = {"event": self.event.to_json()} if self.event else dict(self.record or {})
        return sealed_json(
            {
                "schema": SCHEMA,
                "event_id": self.event_id,
                "code": self.code,
                "message": self.message,
                "hint": self.hint,
                "attempts": self.attempts,
                "worker": self.worker,
                **content,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> DeadLetter:
        """Read what `to_bytes` wrote. Raises InvalidInputError("dead-letter-unreadable")."""
        try:
            value = unsealed(data)
            if value["schema"] != SCHEMA:
                raise ValueError("schema")
            check_key(letter_key(str(value["event_id"])))
            return cls(
                **{name: str(value[name]) for name in ("event_id", "code", "message", "hint")},
                attempts=int(value["attempts"]),
                worker=str(value["worker"]),
                event=Event.from_json(value["event"]) if "event" in value else None,
                record=_record(value) if "event" not in value else None,
            )
        except (InvalidInputError, ValueError, TypeError, KeyError, AttributeError):
            raise InvalidInputError(
                "dead-letter-unreadable",
                "A dead letter cannot be read: a part is missing or malformed, or its schema is another.",
                hint="Use the version of histgen that wrote it, or send the slide again.",
            ) from None


def read_dead_letter(store: ObjectStore, event_id: str) -> DeadLetter | None:
    """Return the letter of this name; None if there is none. Raises as `DeadLetter.from_bytes`."""
    data = store.find(letter_key(event_id))
    return None if data is None else DeadLetter.from_bytes(data)


def readable_letter(store: ObjectStore, event_id: str) -> DeadLetter | None:
    """Return the letter of this name; None if there is none, or none that this version can read."""
    try:
        return read_dead_letter(store, event_id)
    except InvalidInputError:  # damaged, or of a later version
        return None


def letter_of(store: ObjectStore, event: Event) -> DeadLetter | None:
    """Return the letter of this very event, under whatever name; None if it was not given up."""
    names = dict.fromkeys((event.name, event.full_name, event.id))
    return next((letter for name in names if (letter := _letter_of(store, event, name))), None)


def keep_letter(store: ObjectStore, letter: DeadLetter) -> tuple[DeadLetter, bool]:
    """Write a letter unless its event has one; return the letter that is stored, and whether it is new.

    Where another event's letter has the name, it is stored under its event's full name.
    """
    for name in dict.fromkeys((letter.event_id, letter.event.full_name if letter.event else letter.event_id)):
        mine = replace(letter, event_id=name)
        if store.put(mine.key, mine.to_bytes(), content_type=JSON):
            return mine, True
        if letter.event and (there := _letter_of(store, letter.event, name)):
            return there, False
    return letter, False


def _letter_of(store: ObjectStore, event: Event, name: str) -> DeadLetter | None:
    letter = readable_letter(store, name)
    return letter if letter and letter.is_of(event) else None


def dead_letters(store: ObjectStore) -> Iterator[DeadLetter]:
    """Yield all letters, by event id. Raises as `DeadLetter.from_bytes`."""
    for info in store.list(LETTERS):
        yield DeadLetter.from_bytes(store.get(info.key))


def letter_ids(store: ObjectStore, scan: Event) -> list[str]:
    """Return the names of all events of a slide's scan that may have a dead letter now.

    They are the scan's own, those that follow from it and that a service takes, and those that came of a
    replay of any of them. Each name follows from the one before, so nothing is listed.
    """
    found, scans = [], [scan]
    while scans:
        scan = scans.pop()
        for name in (scan.name, *_taken_after(scan)):
            found.append(name)
            if store.head(replayed_key(name)):
                scans.append(replace(scan, id=replay_id(name)))
    return found


def _taken_after(scan: Event) -> Iterator[str]:
    """Name the events that follow from a scan, as far as others follow from them: so a service takes them."""
    return (name for kind, name in following_names(scan.name, scan.type) if following_types(kind))


def came_of(letter: DeadLetter, scan: Event) -> bool:
    """Whether a letter of a slide's trace is of this scan or what followed, not of another in the trace."""
    event = letter.event
    if event is None or event.replay or letter.is_of(scan):
        return event is not None
    for name in (scan.name, scan.id):
        direct = (event.type, following_id(name, event.type))
        if (event.type, event.id) in (direct, *following_names(name, scan.type)):
            return True
    return False


def letter_of_scan(store: ObjectStore, scan: Event) -> DeadLetter | None:
    """Return the dead letter in which a slide's scan ended, in any service or replay; None if it did not."""
    found = [letter for name in letter_ids(store, scan) if (letter := readable_letter(store, name))]
    return max(found, key=lambda letter: letter.event.replay if letter.event else 0, default=None)


def was_taken_in(store: ObjectStore, letter: DeadLetter) -> bool:
    """Whether a slide that the gateway had refused was announced after all, under whatever id."""
    data = letter.event.data if letter.event else None
    if letter.worker != GATEWAY or not isinstance(data, SlideScanned):
        return False
    return any(store.list(contents_prefix(data.content_id)))


def _record(value: Mapping[str, Any]) -> dict[str, str | int]:
    return {
        "position": str(value["position"]),
        "sha256": str(value["sha256"]),
        "size_bytes": int(value["size_bytes"]),
    }
