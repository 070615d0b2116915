"""Where every slide stands, read from the object store alone, whether a stack runs or not."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import Any, TypeVar

from histgen_lib.catalogue import keys
from histgen_lib.catalogue.case import missing_slides
from histgen_lib.catalogue.dead_letter import UNREADABLE, DeadLetter, came_of, letter_ids, was_taken_in
from histgen_lib.catalogue.integrity import Damage, Fault, gaps, noted_damage, parse_digests
from histgen_lib.catalogue.keys import ReportOwner, letter_key, report_digest
from histgen_lib.catalogue.pointers import (
    BY_REPORT,
    is_about,
    named_drafts,
    parse_pointer,
    pointers_of,
    recall_pointer,
)
from histgen_lib.catalogue.registry import SlideRecord, absent_record, read_record
from histgen_lib.catalogue.states import DraftFacts, SlideState
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import BagReady, Event, SlideScanned
from histgen_lib.reports.renderers import DRAFT_JSON
from histgen_lib.storage import ObjectInfo, ObjectStore

S = TypeVar("S")
T = TypeVar("T")
_READERS = 8
"""Threads that read a store over a network. A folder is read by one: more would wait for each other."""


@dataclass(frozen=True)
class _Report:
    """The draft of a scan, if there is one that can be read, and what is wrong with its objects."""

    draft: DraftFacts | None = None
    damaged: tuple[str, ...] = ()


class Overview:
    """Reads the states of slides, as often as wanted; an object that did not change is read once."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._readers = 1 if store.uri("x").startswith("file:") else _READERS
        self._read: dict[tuple[str, str], Any] = {}
        self._drafted: dict[str, SlideState] = {}
        self._settled: set[str] = set()

    def slides(self, only: Collection[str] | None = None) -> list[SlideState]:
        """Return the state of every slide, and of every dead letter that belongs to none, by slide id.

        With `only`: of the slides with these ids.
        """
        scanned = self._scanned(only)
        letters = [
            letter for letter in self.letters() if only is None or (letter.event and letter.event.key in only)
        ]
        with ThreadPoolExecutor(self._readers) as readers:
            scans = [scan for scan in self._each(readers, self._scan, scanned) if scan]
            states = self._standing(scans, self._with_events(letters, scans), readers)
        copies = self._copies()
        return [
            replace(one, copies=tuple(copies.get(one.slide_id, ()))) if one.event else one for one in states
        ]

    def _with_events(self, letters: list[DeadLetter], scans: list[SlideRecord]) -> list[DeadLetter]:
        """Add their events to letters that cannot be read."""
        unread = {letter.key for letter in letters if letter.code == UNREADABLE}
        owners: dict[str, Event] = {}
        for event in [scan.event for scan in scans if scan.event and unread]:
            owners |= dict.fromkeys(map(letter_key, letter_ids(self._store, event)), event)
        return [replace(one, event=owners.get(one.key)) if one.key in unread else one for one in letters]

    def _copies(self) -> dict[str, list[str]]:
        """Return the names of copies, by the id of the slide that they are."""
        found: dict[str, list[str]] = {}
        for info in self._store.list(keys.COPIES):
            copy, _, slide_id = info.key.removeprefix(keys.COPIES).partition("/")
            found.setdefault(slide_id, []).append(copy)
        return found

    def named(self, scanned: Collection[ObjectInfo], noted: Collection[str] = ()) -> list[SlideState]:
        """Return the same as `slides` for slides with these records; other slides do not add to the cost.

        It finds the letters that came of a record's event, and those of `noted`, which are names of letters:
        only a listing finds the letters of files that were refused a slide's id.
        """
        with ThreadPoolExecutor(self._readers) as readers:
            found = self._each(readers, self._with_letters, scanned)
            letters = {letter.event_id: letter for _, letters in found for letter in letters}
            others = [letter_key(event_id) for event_id in sorted(set(noted) - set(letters))]
            letters |= {one.event_id: one for one in self._each(readers, self._letter_at, others) if one}
            return self._standing([scan for scan, _ in found if scan], letters.values(), readers)

    def _with_letters(self, info: ObjectInfo) -> tuple[SlideRecord | None, list[DeadLetter]]:
        """Read a scan's event, and the dead letters that came of it."""
        scan = self._scan(info)
        event = scan.event if scan else None
        ids = letter_ids(self._store, event) if event else []
        letters = [letter for event_id in ids if (letter := self._letter_at(letter_key(event_id)))]
        return scan, [replace(one, event=event) if one.code == UNREADABLE else one for one in letters]

    def _letter_at(self, key: str) -> DeadLetter | None:
        info = self._store.head(key)
        return self._letter(info) if info else None

    def scan_of(self, slide_id: str) -> ObjectInfo | None:
        """Look up the record of a slide's latest scan; None if there is no such slide.

        If it has no etag, it is gone, though the slide's id is owned.
        """
        if found := self._store.head(keys.scanned_key(slide_id)):
            return found
        known = self._store.head(keys.owner_key(slide_id)) or any(
            self._store.list(keys.by_hand_prefix(slide_id))
        )
        return absent_record(slide_id) if known else None

    def _standing(
        self, scans: list[SlideRecord], letters: Iterable[DeadLetter], readers: ThreadPoolExecutor
    ) -> list[SlideState]:
        letters = [letter for letter in letters if not self._taken_in(letter)]
        by_trace = _by_trace(letters)
        states = self._each(readers, lambda scan: self._state(scan, by_trace), scans)
        states += _strays(letters, [scan.event for scan in scans if scan.event])
        owners = {owner for state in states for owner in _owners(state)}
        notes = _by_owner(noted_damage(self._store, owners))
        return [_with_notes(one, notes) for one in sorted(states, key=lambda state: state.slide_id)]

    def letters(self) -> list[DeadLetter]:
        """Return all dead letters that can be read, by event id."""
        found = [info for info in self._store.list(keys.LETTERS) if info.key.endswith(".json")]
        with ThreadPoolExecutor(self._readers) as readers:
            return [letter for letter in self._each(readers, self._letter, found) if letter]

    def _taken_in(self, letter: DeadLetter) -> bool:
        if letter.event_id not in self._settled and was_taken_in(self._store, letter):
            self._settled.add(letter.event_id)
        return letter.event_id in self._settled

    def _scanned(self, only: Collection[str] | None) -> list[ObjectInfo]:
        if only is not None:
            return [info for slide_id in sorted(only) if (info := self.scan_of(slide_id))]
        there = {info.key: info for info in self._store.list(keys.SLIDES) if keys.slide_of_scanned(info.key)}
        owned = (info.key.removeprefix(keys.OWNERS) for info in self._store.list(keys.OWNERS))
        taken = (info.key.split("/")[2] for info in self._store.list(keys.BY_HAND))
        known = sorted({*owned, *taken})
        return [*there.values(), *(absent_record(one) for one in known if keys.scanned_key(one) not in there)]

    def _state(self, scan: SlideRecord, letters: Mapping[tuple[str, str], list[DeadLetter]]) -> SlideState:
        """Return where a slide stands. `letters`: by trace."""
        event = scan.event
        if event is None:
            return SlideState(scan.slide_id, "scanned", damaged=scan.damaged)
        if event.name in self._drafted:  # which is final
            return self._drafted[event.name]
        data = event.data
        assert isinstance(data, SlideScanned)
        report = self._report(data)
        damaged = (*scan.damaged, *report.damaged)
        if report.draft:
            state = SlideState(data.slide_id, "drafted", event, report.draft, damaged=damaged)
            self._drafted |= {event.name: state} if not damaged else {}
            return state
        if own := [letter for letter in letters.get(_trace(event), ()) if came_of(letter, event)]:
            last = max(own, key=lambda letter: letter.event.replay if letter.event else 0)
            if last.code == UNREADABLE:
                damaged = (*damaged, f"{last.key} {Fault.UNREADABLE}")
            return SlideState(data.slide_id, "dead-letter", event, letter=last, damaged=damaged)
        bagged, of_bag = self._bagged(data)
        damaged = (*damaged, *of_bag)
        if bagged:
            return SlideState(data.slide_id, "bagged", event, lacks=self._lacks(data), damaged=damaged)
        return SlideState(data.slide_id, "scanned", event, damaged=damaged)

    def _lacks(self, slide: SlideScanned) -> tuple[str, ...]:
        """Return the slides that its case waits for; none until the slide's own bag has joined the case."""
        if not (slide.case_id and slide.case_slides):
            return ()
        missing = missing_slides(self._store, slide.case_id, slide.case_slides)
        return () if slide.slide_id in missing else tuple(missing)

    def drafted(self, slide: SlideScanned) -> DraftFacts | None:
        """Return the draft of this very scan; an older draft of a rescanned slide does not count.

        It is the latest report of the slide, or of its case, that covers the slide. What counts is whose
        report a draft.json says it is, not where it lies or what points to it.
        """
        return self._report(slide).draft

    def shown(self, events: Iterable[Event]) -> set[str] | None:
        """Return the digests of the reports that slides have now; None if one has none, or no slide is known.

        Slides that have left a case keep its earlier report.
        """
        scans = [event.data for event in events if isinstance(event.data, SlideScanned)]
        drafts = [draft for scan in scans if (draft := self.drafted(scan))]
        return {report_digest(draft.key) for draft in drafts} if scans and len(drafts) == len(scans) else None

    def strangers(self, slide: SlideScanned) -> list[DraftFacts]:
        """Return the reports of other owners that the slide's pointer names before the slide's own."""
        owner = ReportOwner.of(slide)
        named = named_drafts(owner, recall_pointer(self._store, owner.latest, by=BY_REPORT) or {})
        found = filter(None, (self._draft(key, self._folder(key), []) for key in named))
        return list(takewhile(lambda draft: not is_about(owner, vars(draft)), found))

    def _report(self, slide: SlideScanned) -> _Report:
        """Look for the draft of a scan, and whether all of its files are there."""
        owner, damaged = ReportOwner.of(slide), list[str]()
        for pointer_key in pointers_of(owner):
            pointer = self._pointer(pointer_key, owner, damaged)
            for key in named_drafts(owner, pointer):
                infos = self._folder(key)
                draft = self._draft(key, infos, damaged)
                part = draft.part(slide.slide_id) if draft and is_about(owner, vars(draft)) else None
                if draft and part:
                    if not _same_scan(part, slide):
                        return _Report(damaged=tuple(damaged))
                    return _Report(draft, (*damaged, *self._gaps(key, infos)))
                if not draft and str(pointer[BY_REPORT]) in key:
                    damaged += self._gaps(key, infos)
        return _Report(damaged=tuple(damaged))

    def _pointer(self, key: str, owner: ReportOwner, damaged: list[str]) -> dict[str, Any]:
        """Read a pointer, from its history if it is damaged or gone."""
        info = self._store.head(key)
        with suppress(InvalidInputError):  # removed since
            if info and (found := self._once(info, partial(parse_pointer, by=BY_REPORT))):
                return found
        pointer = recall_pointer(self._store, key, by=BY_REPORT)
        if pointer and not info and self._store.head(key):  # written meanwhile
            return pointer
        if key == owner.latest and (info or pointer):
            damaged.append(f"{key} {Fault.UNREADABLE if info else Fault.MISSING}")
        return pointer or {}

    def _folder(self, draft_key: str) -> dict[str, ObjectInfo]:
        """Return what lies in a report's folder, by key."""
        return {info.key: info for info in self._store.list(draft_key.removesuffix(DRAFT_JSON))}

    def _draft(self, key: str, infos: Mapping[str, ObjectInfo], damaged: list[str]) -> DraftFacts | None:
        if key not in infos:
            return None
        try:
            return self._once(infos[key], lambda data: DraftFacts.read(key, data))
        except (InvalidInputError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            damaged.append(f"{key} {Fault.UNREADABLE}")
            return None

    def _gaps(self, draft_key: str, infos: Mapping[str, ObjectInfo]) -> list[str]:
        """List files of a report that are missing or not of their size, each with its fault; none is read."""
        sums = draft_key.removesuffix(DRAFT_JSON) + keys.DIGESTS
        if sums not in infos:
            return [] if draft_key in infos or not infos else [f"{draft_key} {Fault.MISSING}"]
        digests = self._once(infos[sums], lambda data: parse_digests(sums, data))
        return [f"{sums} {Fault.UNREADABLE}"] if digests is None else gaps(digests, infos)

    def _bagged(self, slide: SlideScanned) -> tuple[bool, list[str]]:
        """Return whether there is a bag of this very scan, and which scan records cannot be read."""
        infos = [
            info
            for info in self._store.list(keys.bags_prefix(slide.slide_id))
            if info.key.endswith(keys.SCAN_RECORD)
        ]
        scans = {info.key: self._json(info.key, info) for info in infos}
        damaged = [
            f"{key} {Fault.UNREADABLE}" for key, scan in scans.items() if not scan or "content_id" not in scan
        ]
        return any(_same_scan(scan, slide) for scan in scans.values() if scan), damaged

    def _scan(self, info: ObjectInfo) -> SlideRecord | None:
        try:
            return self._once(info, lambda data: read_record(self._store, info, data))
        except InvalidInputError:  # removed since
            return read_record(self._store, absent_record(keys.slide_of_scanned(info.key)), b"")

    def _letter(self, info: ObjectInfo) -> DeadLetter | None:
        try:
            return self._once(info, DeadLetter.from_bytes)
        except InvalidInputError as error:
            if error.code != UNREADABLE:
                return None  # removed since
            return DeadLetter.unreadable(info.key, info.size_bytes)

    def _json(self, key: str, info: ObjectInfo | None = None) -> dict[str, Any] | None:
        info = info or self._store.head(key)
        try:
            value = self._once(info, json.loads) if info else None
        except (InvalidInputError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def _each(self, readers: ThreadPoolExecutor, call: Callable[[S], T], items: Iterable[S]) -> list[T]:
        """Call with each item, in some threads; each takes many items, as handing over one costs more."""
        left = list(items)
        size = max(1, -(-len(left) // self._readers))
        parts = [left[start : start + size] for start in range(0, len(left), size)]
        return [found for done in readers.map(lambda part: list(map(call, part)), parts) for found in done]

    def _once(self, info: ObjectInfo, parse: Callable[[bytes], T]) -> T:
        mark = (info.key, info.etag)
        if mark not in self._read:
            self._read[mark] = parse(self._store.get(info.key))
        found: T = self._read[mark]
        return found


def _owners(state: SlideState) -> set[str]:
    """Return whose objects concern a slide: its own, and those of its case."""
    data = state.event.data if state.event else None
    return {state.slide_id, ReportOwner.of(data).name} if isinstance(data, SlideScanned) else {state.slide_id}


def _by_owner(damages: Iterable[Damage]) -> dict[str, list[Damage]]:
    found: dict[str, list[Damage]] = {}
    for damage in damages:
        found.setdefault(damage.owner, []).append(damage)
    return found


def _with_notes(state: SlideState, notes: Mapping[str, list[Damage]]) -> SlideState:
    """Add what a verification has noted of a slide and its case to what was seen now."""
    found = [one for owner in sorted(_owners(state)) for one in notes.get(owner, ())]
    return state.with_damage(found)


def _trace(event: Event) -> tuple[str, str]:
    """Return what tells a slide's trace apart; some senders give all of their slides the same trace."""
    return event.key, event.trace_id


def _by_trace(letters: Iterable[DeadLetter]) -> dict[tuple[str, str], list[DeadLetter]]:
    found: dict[tuple[str, str], list[DeadLetter]] = {}
    for letter in letters:
        if letter.event:
            found.setdefault(_trace(letter.event), []).append(letter)
    return found


def _strays(letters: Iterable[DeadLetter], events: list[Event]) -> list[SlideState]:
    """Return the dead letters of no slide in `events`: unreadable records, and slides refused for their id.

    A letter about the same file or the same bytes as a slide in `events` is history: it was sent again since.
    """
    known = {mark for event in events for mark in _marks(event)}
    strays = [letter for letter in letters if not letter.event or not known & set(_marks(letter.event))]
    return [
        SlideState(letter.event.key if letter.event else "unknown", "dead-letter", letter=letter)
        for letter in strays
    ]


def _marks(event: Event) -> list[tuple[str, str]]:
    data = event.data
    if not isinstance(data, SlideScanned | BagReady):
        return [_trace(event)]
    return [_trace(event), (data.slide_id, data.uri), (data.slide_id, data.content_id)]


def _same_scan(record: Mapping[str, object], slide: SlideScanned) -> bool:
    """Whether a record is of these bytes, and of the mpp that was announced, if one was."""
    same_mpp = slide.mpp is None or record.get("mpp") == slide.mpp
    same_slide = record.get("slide_id") == slide.slide_id
    return same_slide and record.get("content_id") == slide.content_id and same_mpp
