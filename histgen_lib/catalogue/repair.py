"""Repairing damaged objects: from what else the store says, or by drafting the slide again.

Nothing that is sound is touched. A report or a bag is rebuilt by the jobs that made it: the slide's event is
published again as it was, they find what is damaged, make its bytes anew, and replace that alone. Each repair
is written to the audit log first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from histgen_lib.bus import Publisher
from histgen_lib.catalogue.audit import Audit, this_account
from histgen_lib.catalogue.case import events_of, slides_of
from histgen_lib.catalogue.dead_letter import letter_ids
from histgen_lib.catalogue.integrity import Damage, etag_of, forget_damage, noted_damage
from histgen_lib.catalogue.keys import (
    CASE_REPORTS,
    SLIDES,
    ReportOwner,
    letter_key,
    report_digest,
    slide_of_scanned,
)
from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.pointers import (
    BY_BAG,
    BY_REPORT,
    Ours,
    is_of,
    latest_of,
    mend_pointer,
    pointer_faults,
    pointer_of,
    recall_pointer,
)
from histgen_lib.catalogue.registry import (
    Announcement,
    find_announcement,
    find_event,
    inferred_owner,
    latest_announcement,
    other_announcements,
)
from histgen_lib.events import Event
from histgen_lib.storage import JSON, ObjectStore

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
    """Repairs what a verification has noted. `publisher` None: says what it would do, and does nothing."""

    def __init__(self, store: ObjectStore, publisher: Publisher | None) -> None:
        self._store, self._publisher = store, publisher
        self._audit, self._by = Audit(store), this_account()
        self._announced: set[str] = set()

    def run(self) -> Iterator[Repaired]:
        """Yield each damaged object when it is dealt with. Raises what store and publisher raise."""
        damages = sorted(noted_damage(self._store), key=lambda one: (_ORDER.index(one.kind), one.key))
        for damage in damages:
            if damage.owner:
                yield self._repaired(damage)
        yield from self._ownerless([damage for damage in damages if not damage.owner])

    def _repaired(self, damage: Damage) -> Repaired:
        repairs: dict[str, Callable[[Damage], Repaired]] = {
            "pointer": self._pointer,
            "case": self._pointer,
            "scan": self._record,
            "content": self._record,
            "by-hand": self._record,
            "owner": self._owner,
            "copy": self._copy,
            "report": self._report,
            "bag": partial(self._redraft, otherwise=_NO_EVENT),
            "signature": partial(Repaired, hint=_SIGN_AGAIN),
            "withdrawal": partial(Repaired, hint=_WITHDRAW_AGAIN),
        }
        repaired = repairs[damage.kind](damage)
        if repaired.done == RESTORED and self._publisher:
            forget_damage(self._store, damage)
        return repaired

    def _pointer(self, damage: Damage) -> Repaired:
        key, by = pointer_of(damage.key), BY_BAG if damage.kind == "case" else BY_REPORT
        if recall_pointer(self._store, key, by=by) is None:
            return self._redraft(damage, _LOST)
        if self._publisher:
            self._log(damage)
            mend_pointer(self._store, key, by=by, ours=self._ours(key))
            if damage.key in pointer_faults(self._store, key, by=by):
                return Repaired(damage, hint=_LOST)
        return Repaired(damage, RESTORED)

    def _ours(self, pointer_key: str) -> Ours:
        """Return which entries a slide's pointer may name: none of a case with a pointer of its own."""
        owner = ReportOwner(pointer_key.split("/")[1], is_case=pointer_key.startswith(CASE_REPORTS))
        case = ReportOwner(owner.id, is_case=True)
        if pointer_key != owner.latest or owner.is_case or self._store.head(case.latest) is None:
            return lambda entry: True
        return lambda entry: is_of(self._store, owner, entry)

    def _record(self, damage: Damage) -> Repaired:
        announcement = self._announcement(damage)
        if announcement is None:
            return Repaired(damage, hint=_LOST)
        return self._restored(damage, announcement.to_bytes())

    def _announcement(self, damage: Damage) -> Announcement | None:
        """Find the event that a damaged record held."""
        slide_id = damage.owner
        if not slide_id:
            return None
        if damage.kind == "scan":
            return find_announcement(self._store, slide_id)
        others = other_announcements(self._store, slide_id)
        found = filter(None, (latest_announcement(self._store, slide_id), *others))
        return next((one for one in found if damage.key in (one.content_key, one.by_hand_key)), None)

    def _owner(self, damage: Damage) -> Repaired:
        owner = inferred_owner(self._store, damage.owner)
        if owner is None:
            return Repaired(damage, hint=_LOST)
        return self._restored(damage, owner.to_bytes(damage.owner))

    def _restored(self, damage: Damage, data: bytes) -> Repaired:
        if self._publisher:
            self._log(damage)
            self._store.put(damage.key, data, if_absent=False, content_type=JSON)
        return Repaired(damage, RESTORED)

    def _copy(self, damage: Damage) -> Repaired:
        """Remove the note: the gateway writes it again when the copy is submitted again."""
        if self._publisher:
            self._log(damage)
            self._store.delete(damage.key)
        return Repaired(damage, RESTORED)

    def _report(self, damage: Damage) -> Repaired:
        digest = report_digest(damage.key)
        owner = ReportOwner.named(damage.owner)
        shown = Overview(self._store).shown(events_of(self._store, owner))
        later = latest_of(self._store, owner, damaged=digest) not in (None, digest)
        if later and shown is not None and digest not in shown:
            return Repaired(damage, hint=_SUPERSEDED)
        return self._redraft(damage, _NO_EVENT)

    def _redraft(self, damage: Damage, otherwise: str) -> Repaired:
        """Announce the slides of a report again, or the slide of a bag."""
        events = self._events_of(damage)
        if not events:
            return Repaired(damage, hint=otherwise)
        if self._is_given_up(events):
            return Repaired(damage, hint=_GIVEN_UP)
        for event in events:
            self._announce(event, damage)
        return Repaired(damage, ANNOUNCED)

    def _events_of(self, damage: Damage) -> list[Event]:
        if damage.kind != "bag":
            return events_of(self._store, ReportOwner.named(damage.owner))
        event = find_event(self._store, damage.owner)
        return [event] if event else []

    def _is_given_up(self, events: list[Event]) -> bool:
        """Whether all of them ended as dead letters: then these are to be replayed."""
        overview = Overview(self._store)
        scans = [info for event in events if (info := overview.scan_of(event.key))]
        states = overview.named(scans)
        return bool(states) and all(state.state == "dead-letter" for state in states)

    def _announce(self, event: Event, damage: Damage) -> None:
        if self._publisher and event.key not in self._announced:
            deed = {"slide_id": event.key, "event_id": event.name, "kind": damage.kind}
            self._audit.append("repaired", self._by, deed)
            self._publisher.publish(event.type, event.key, event)
        self._announced.add(event.key)

    def _log(self, damage: Damage) -> None:
        for slide_id in sorted(slides_of(self._store, [damage.owner])):
            self._audit.append("repaired", self._by, {"slide_id": slide_id, "kind": damage.kind})

    def _ownerless(self, damages: list[Damage]) -> Iterator[Repaired]:
        """Repair letters, and events recorded under their bytes: only the slides tell whose they are."""
        left = {damage.key: damage for damage in damages}
        for info in self._store.list(SLIDES) if left else ():
            slide_id = slide_of_scanned(info.key)
            event = find_event(self._store, slide_id) if slide_id else None
            if event is None:
                continue
            for key in [key for key in map(letter_key, letter_ids(self._store, event)) if key in left]:
                yield self._letter(left.pop(key), event)
            latest = latest_announcement(self._store, event.key)
            if latest and (damage := left.pop(latest.content_key, None)):
                yield self._repaired(replace(damage, owner=latest.event.key))
        for damage in left.values():
            yield Repaired(damage, hint=_NO_EVENT)

    def _letter(self, damage: Damage, event: Event) -> Repaired:
        if self._publisher and etag_of(self._store, damage.key) == damage.etag:
            self._announce(event, damage)
            self._store.delete(damage.key)
            forget_damage(self._store, damage)
        return Repaired(damage, ANNOUNCED)


_ORDER = (
    "scan", "by-hand", "content", "owner", "copy", "pointer", "case", "bag", "report", "signature",
    "withdrawal", "letter",
)  # fmt: skip
"""The registry first: it says what is to be announced."""
_LOST = "Nothing else in the store says what it held. Restore it from a backup."
_SUPERSEDED = "A later report has replaced it; histgen prune removes it in time."
_NO_EVENT = "No event in the store says how it was made. Restore it from a backup, or send the slide again."
_SIGN_AGAIN = "Only a person can say it again: histgen sign, or restore it from a backup."
_WITHDRAW_AGAIN = "It holds as it is. To write it anew, run histgen withdraw again."
_GIVEN_UP = "Its slide is a dead letter: fix what the letter names, then run histgen replay."
