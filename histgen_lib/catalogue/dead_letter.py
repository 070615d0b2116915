"""Dead letters: what could not be worked on, why, and everything that it takes to try again.

A letter lies at dead-letter/<name>.json, by the event's name (`Event.name`); those of earlier versions lie by
the event's id alone, and are found there. No event's letter is taken for another's. Of a record that is no
event of ours neither bytes nor headers are kept, as they may hold anything: its place, size and digest tell a
person where to look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from histgen_lib.bus import Delivery
from histgen_lib.catalogue.objects import JSON
from histgen_lib.errors import HistgenError, InvalidInputError
from histgen_lib.events import DeadLettered, Event, following_id
from histgen_lib.files import sealed_json, sha256_hex, unsealed
from histgen_lib.storage import ObjectStore, check_key

SCHEMA = 1
PREFIX = "dead-letter/"
UNREADABLE = "dead-letter-unreadable"
UNKNOWN = "unknown"
"""Stands for the slide's id where the record could not be read."""


@dataclass(frozen=True)
class DeadLetter:
    """An event given up by `worker`, after `attempts`. `record` instead of `event`: see `of_record`.

    `event_id`: the name by which it is kept.
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
        """Give up a record that is no event of ours; its id follows from its place and its bytes."""
        digest = sha256_hex(delivery.raw)
        record: dict[str, str | int] = {
            "position": delivery.position,
            "sha256": digest,
            "size_bytes": len(delivery.raw),
        }
        made = sha256_hex(f"{delivery.position}|{digest}".encode())[:32]
        return cls(made, reason.code, reason.message, reason.hint, 0, worker, record=record)

    @classmethod
    def unreadable(cls, key: str, size_bytes: int, event: Event | None = None) -> DeadLetter:
        """Stand in for a letter that cannot be read: that there is one is known all the same."""
        return cls(
            letter_name(key),
            UNREADABLE,
            "The dead letter is damaged, or of another version: what was wrong is not known any more.",
            "Have the slide tried again: histgen verify --repair.",
            attempts=0,
            worker=UNKNOWN,
            event=event,
            record={"position": key, "sha256": "", "size_bytes": size_bytes},
        )

    @property
    def key(self) -> str:
        """Where it lies."""
        return letter_key(self.event_id)

    def is_of(self, event: Event) -> bool:
        """Whether it is of this very event, and not of another of the same source and id."""
        return self.event is not None and self.event.full_name == event.full_name

    def announcement(self, *, source: str, now: datetime) -> Event:
        """Make the event that tells of it; always the same id for the same letter."""
        event = self.event
        if event is None:
            data = DeadLettered(UNKNOWN, self.event_id, UNKNOWN, self.code, self.key)
            return Event.first(data, source=source, now=now, identity=self.event_id)
        slide_id = event.key if event.key == event.data.slide_id else UNKNOWN
        data = DeadLettered(slide_id, event.id, event.type, self.code, self.key, event.source)
        made = event.then(data, source=source, now=now)
        if self.event_id == event.name:
            return made
        return replace(made, id=following_id(self.event_id, data.type))

    def to_bytes(self) -> bytes:
        """Canonical JSON, sealed."""
        told = {"event": self.event.to_json()} if self.event else dict(self.record or {})
        return sealed_json(
            {
                "schema": SCHEMA,
                "event_id": self.event_id,
                "code": self.code,
                "message": self.message,
                "hint": self.hint,
                "attempts": self.attempts,
                "worker": self.worker,
                **told,
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


def letter_key(event_id: str) -> str:
    """Say where the letter of an event lies, or would."""
    return f"{PREFIX}{event_id}.json"


def letter_name(key: str) -> str:
    """Name the event whose letter lies there."""
    return key.removeprefix(PREFIX).removesuffix(".json")


def read_dead_letter(store: ObjectStore, event_id: str) -> DeadLetter | None:
    """Return the letter of a name; None if there is none. Raises as `DeadLetter.from_bytes`."""
    data = store.find(letter_key(event_id))
    return None if data is None else DeadLetter.from_bytes(data)


def readable_letter(store: ObjectStore, event_id: str) -> DeadLetter | None:
    """Return the letter of a name; None if there is none, or none that this version can read."""
    try:
        return read_dead_letter(store, event_id)
    except InvalidInputError:  # damaged, or of a later version: it tells of nobody
        return None


def letter_of(store: ObjectStore, event: Event) -> DeadLetter | None:
    """Return the letter of this very event, by whatever name; None if it was not given up."""
    names = dict.fromkeys((event.name, event.full_name, event.id))
    return next((letter for name in names if (letter := _letter_of(store, event, name))), None)


def keep_letter(store: ObjectStore, letter: DeadLetter) -> tuple[DeadLetter, bool]:
    """Write a letter unless its event has one; return the letter that is there, and whether it is new.

    Where another event's letter has the name, it lies by its event's full name.
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
    for info in store.list(PREFIX):
        yield DeadLetter.from_bytes(store.get(info.key))


def _record(value: Mapping[str, Any]) -> dict[str, str | int]:
    return {
        "position": str(value["position"]),
        "sha256": str(value["sha256"]),
        "size_bytes": int(value["size_bytes"]),
    }
