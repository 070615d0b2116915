"""Having what is damaged written again: from what else the store says of it, or by drafting the slide again.

Nothing that is sound is touched. A report or a bag is rebuilt by the jobs that made it: the slide's event is
published again as it was, they find what is damaged, make its bytes anew, and put them in its place alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from histgen_lib.bus import Publisher
from histgen_lib.events import Event
from histgen_lib.pipeline import keys
from histgen_lib.pipeline.pointer import BY_BAG, BY_REPORT, mend_pointer, pointer_of, recall_pointer
from histgen_lib.stack.damage import Damage, etag_of, forget, noted
from histgen_lib.stack.overview import Overview
from histgen_lib.stack.recovery import content_key, events_of, restore_owner, restore_scan, scan_of, slide_of
from histgen_lib.stack.verifying import SLIDES
from histgen_lib.storage import ObjectStore
from histgen_lib.worker.dead_letter import letter_key
from histgen_lib.worker.replay import letter_ids

RESTORED, ANNOUNCED = "restored", "announced"


@dataclass(frozen=True)
class Repaired:
    """What became of a damaged object.

    `done`: "restored"; "announced", where the slide is drafted again, which takes a while; or "", and then
    `hint` says what a person can do.
    """

    damage: Damage
    done: str = ""
    hint: str = ""


class Repair:
    """Repairs what the notes of a verification say. `publisher` None: says what it would do, does nothing."""

    def __init__(self, store: ObjectStore, publisher: Publisher | None) -> None:
        self._store, self._publisher = store, publisher
        self._announced: set[str] = set()

    def run(self) -> Iterator[Repaired]:
        """Yield each damaged object when it is dealt with. Raises what store and publisher raise."""
        damages = sorted(noted(self._store), key=lambda one: (_ORDER.index(one.kind), one.key))
        for damage in damages:
            if damage.owner:
                yield self._repaired(damage)
        yield from self._ownerless([damage for damage in damages if not damage.owner])

    def _repaired(self, damage: Damage) -> Repaired:
        mended = {
            "pointer": self._pointer,
            "case": self._pointer,
            "scan": self._book,
            "content": self._book,
            "owner": self._book,
            "copy": self._copy,
            "report": self._report,
            "bag": self._bag,
        }[damage.kind](damage)
        if mended.done == RESTORED and self._publisher:
            forget(self._store, damage)
        return mended

    def _pointer(self, damage: Damage) -> Repaired:
        key, by = pointer_of(damage.key), BY_BAG if damage.kind == "case" else BY_REPORT
        if recall_pointer(self._store, key, by=by) is None:
            return self._redraft(damage, _LOST)
        if self._publisher:
            mend_pointer(self._store, key, by=by)
        return Repaired(damage, RESTORED)

    def _book(self, damage: Damage) -> Repaired:
        event = scan_of(self._store, damage.owner) if damage.owner else None
        if event is None or (damage.kind == "content" and content_key(event) != damage.key):
            return Repaired(damage, hint=_LOST)
        if self._publisher:
            (restore_owner if damage.kind == "owner" else restore_scan)(self._store, event)
        return Repaired(damage, RESTORED)

    def _copy(self, damage: Damage) -> Repaired:
        """Remove the note: the gateway writes it again when it is told of the copy."""
        if self._publisher:
            self._store.delete(damage.key)
        return Repaired(damage, RESTORED)

    def _report(self, damage: Damage) -> Repaired:
        pointer = recall_pointer(self._store, keys.latest_key(damage.owner), by=BY_REPORT)
        if pointer and damage.key.split("/")[2] != pointer[BY_REPORT]:
            return Repaired(damage, hint=_SUPERSEDED)
        return self._redraft(damage, _NO_EVENT)

    def _bag(self, damage: Damage) -> Repaired:
        return self._redraft(damage, _NO_EVENT)

    def _redraft(self, damage: Damage, otherwise: str) -> Repaired:
        """Announce the slides of a report again, or the slide of a bag."""
        events = self._events_of(damage)
        if not events:
            return Repaired(damage, hint=otherwise)
        if self._is_given_up(events):
            return Repaired(damage, hint=_GIVEN_UP)
        for event in events:
            self._announce(event)
        return Repaired(damage, ANNOUNCED)

    def _events_of(self, damage: Damage) -> list[Event]:
        if damage.kind != "bag":
            return events_of(self._store, damage.owner)
        event = scan_of(self._store, damage.owner)
        return [event] if event else []

    def _is_given_up(self, events: list[Event]) -> bool:
        """Whether all of them ended as dead letters: then the letters are what is to be tried again."""
        overview = Overview(self._store)
        scans = [info for event in events if (info := overview.scan_of(event.key))]
        states = overview.named(scans)
        return bool(states) and all(state.state == "dead-letter" for state in states)

    def _announce(self, event: Event) -> None:
        if self._publisher and event.key not in self._announced:
            self._publisher.publish(event.type, event.key, event)
        self._announced.add(event.key)

    def _ownerless(self, damages: list[Damage]) -> Iterator[Repaired]:
        """Repair letters, and events that lie under their bytes: whose they are only the slides can tell."""
        left = {damage.key: damage for damage in damages}
        for info in self._store.list(SLIDES) if left else ():
            event = scan_of(self._store, slide_of(info))
            ids = letter_ids(self._store, event.id) if event else []
            for key in [key for key in map(letter_key, ids) if key in left]:
                yield self._letter(left.pop(key), event)
            if event and (damage := left.pop(content_key(event), None)):
                yield self._repaired(replace(damage, owner=event.key))
        for damage in left.values():
            yield Repaired(damage, hint=_NO_EVENT)

    def _letter(self, damage: Damage, event: Event | None) -> Repaired:
        assert event is not None
        if self._publisher and etag_of(self._store, damage.key) == damage.etag:
            self._store.delete(damage.key)
            self._announce(event)
            forget(self._store, damage)
        return Repaired(damage, ANNOUNCED)


_ORDER = ("scan", "content", "owner", "copy", "pointer", "case", "bag", "report", "letter")
"""The books first: they say what is to be announced."""
_LOST = "Nothing else in the store says what it held. Restore it from a backup."
_SUPERSEDED = "A later report has taken its place; histgen prune removes it in time."
_NO_EVENT = (
    "No event in the store tells how it came about. Restore it from a backup, or send the slide again."
)
_GIVEN_UP = "Its slide is a dead letter: mend what that names, then histgen replay."
