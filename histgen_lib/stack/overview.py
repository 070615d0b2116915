"""Where every slide stands, read from the object store alone: works on any stack, running or not."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal, TypeVar

from histgen_lib.errors import InvalidInputError
from histgen_lib.events import BagReady, Event, SlideScanned, following_id, recorded_scan
from histgen_lib.pipeline import keys
from histgen_lib.pipeline.case import missing_slides
from histgen_lib.pipeline.latest import named_drafts, pointers_of, tells_of
from histgen_lib.storage import ObjectInfo, ObjectStore
from histgen_lib.worker.dead_letter import PREFIX, DeadLetter, letter_key
from histgen_lib.worker.replay import letter_ids, taken_in

S = TypeVar("S")
T = TypeVar("T")
Where = Literal["scanned", "bagged", "drafted", "dead-letter"]
_READERS = 8
"""Threads that ask a store over a network. A folder is read by one: more would wait for each other."""


@dataclass(frozen=True)
class DraftFacts:
    """What is told of a finished draft. `key`: of its draft.json."""

    key: str
    text: str
    abstained: bool
    out_of_distribution: bool
    confidence: float | None
    """None: the model was not calibrated."""
    fields: dict[str, str]
    parts: tuple[dict[str, Any], ...]
    """Slide id, content id and mpp of each slide it was made from."""
    slide_id: str = ""
    """What it says it is of: a slide, or with `case_id` a case, whose id this is then."""
    case_id: str | None = None

    @classmethod
    def read(cls, key: str, data: bytes) -> DraftFacts:
        """Take from a draft.json what is shown; its thousands of probabilities are not kept."""
        draft = json.loads(data)
        parts = draft.get("slides") or [
            {"slide_id": draft["slide_id"], "slide": draft["provenance"]["slide"]}
        ]
        return cls(
            key=key,
            text=draft["text"],
            abstained=draft["abstained"],
            out_of_distribution=draft["out_of_distribution"]["flag"],
            confidence=draft["confidence"],
            fields=draft["fields"],
            parts=tuple({**_told(part["slide"]), "slide_id": part["slide_id"]} for part in parts),
            slide_id=draft["slide_id"],
            case_id=draft.get("case_id"),
        )

    @property
    def page_key(self) -> str:
        """Key of the page that shows it."""
        return self.key.removesuffix(keys.DRAFT_JSON) + keys.DRAFT_HTML

    @property
    def owner(self) -> keys.ReportOwner:
        """Whose report it says it is."""
        return keys.ReportOwner(self.slide_id, self.case_id is not None)

    def part(self, slide_id: str) -> dict[str, Any] | None:
        """Return what it tells of one slide that it was made from."""
        return next((part for part in self.parts if part["slide_id"] == slide_id), None)


@dataclass(frozen=True)
class SlideState:
    """One slide. "scanned": a tiler is to come; "bagged": a reporter is; then a draft or a dead letter.

    `lacks`: the slides of its case without a bag, for which a slide that has one waits. `copies`: names of
    files with the same bytes, which are the same slide.
    """

    slide_id: str
    state: Where
    event: Event | None = None
    draft: DraftFacts | None = None
    letter: DeadLetter | None = None
    lacks: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come."""
        return self.state in ("drafted", "dead-letter")

    @property
    def end(self) -> str:
        """Key of the object that it ended with; "" if it has not."""
        return self.draft.key if self.draft else self.letter.key if self.letter else ""

    @property
    def ending(self) -> tuple[str, str, str]:
        """Tell this end from others: one that was sent again may end again, and with the same draft."""
        return self.slide_id, self.event.name if self.event else "", self.end

    @property
    def mates(self) -> frozenset[str]:
        """Ids of the other slides of its case, which get one report with it."""
        data = self.event.data if self.event else None
        named = data.case_slides if isinstance(data, SlideScanned) and data.case_id else ()
        return frozenset(named) - {self.slide_id}

    @property
    def scanned_at(self) -> str:
        """When it was announced, in UTC, as text that sorts by time; "" if that is not known."""
        event = self.event or (self.letter and self.letter.event)
        return event.scanned_at.isoformat(timespec="microseconds") if event else ""

    @property
    def uri(self) -> str:
        """Where the slide lies, if that is known."""
        event = self.event or (self.letter and self.letter.event)
        return event.data.uri if event and isinstance(event.data, SlideScanned | BagReady) else ""


class Overview:
    """Reads the states again and again; an object that did not change is read once."""

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
            events = [event for event in self._each(readers, self._event, scanned) if event]
            states = self._standing(events, letters, readers)
        copies = self._copies() if only is None else {}
        return [
            replace(one, copies=tuple(copies.get(one.slide_id, ()))) if one.event else one for one in states
        ]

    def _copies(self) -> dict[str, list[str]]:
        """Name the copies of every slide that has some."""
        found: dict[str, list[str]] = {}
        for info in self._store.list(keys.COPIES):
            copy, _, slide_id = info.key.removeprefix(keys.COPIES).partition("/")
            found.setdefault(slide_id, []).append(copy)
        return found

    def named(self, scanned: Collection[ObjectInfo], noted: Collection[str] = ()) -> list[SlideState]:
        """Return what `slides` would of slides with these records, at a cost that no other slide adds to.

        Of letters, those are found that came of a record's event, and those that are `noted`, by event id:
        only a listing finds the letters of files that were refused a slide's name.
        """
        with ThreadPoolExecutor(self._readers) as readers:
            found = self._each(readers, self._with_letters, scanned)
            letters = {letter.event_id: letter for _, letters in found for letter in letters}
            others = [letter_key(event_id) for event_id in sorted(set(noted) - set(letters))]
            letters |= {one.event_id: one for one in self._each(readers, self._letter_at, others) if one}
            return self._standing([event for event, _ in found if event], letters.values(), readers)

    def _with_letters(self, info: ObjectInfo) -> tuple[Event | None, list[DeadLetter]]:
        """Read a scan's event, and the dead letters that came of it."""
        event = self._event(info)
        ids = letter_ids(self._store, event) if event else []
        return event, [letter for event_id in ids if (letter := self._letter_at(letter_key(event_id)))]

    def _letter_at(self, key: str) -> DeadLetter | None:
        info = self._store.head(key)
        return self._letter(info) if info else None

    def scan_of(self, slide_id: str) -> ObjectInfo | None:
        """Look up the record of a slide's latest scan; None if the gateway knows no such slide."""
        return self._store.head(keys.scanned_key(slide_id))

    def _standing(
        self, events: list[Event], letters: Iterable[DeadLetter], readers: ThreadPoolExecutor
    ) -> list[SlideState]:
        letters = [letter for letter in letters if not self._taken_in(letter)]
        by_trace = _by_trace(letters)
        states = self._each(
            readers, lambda event: self._state(event, by_trace.get(_trace(event), ())), events
        )
        return sorted([*states, *_strays(letters, events)], key=lambda state: state.slide_id)

    def letters(self) -> list[DeadLetter]:
        """Return all dead letters that can be read, by event id."""
        found = [info for info in self._store.list(PREFIX) if info.key.endswith(".json")]
        with ThreadPoolExecutor(self._readers) as readers:
            return [letter for letter in self._each(readers, self._letter, found) if letter]

    def _taken_in(self, letter: DeadLetter) -> bool:
        if letter.event_id not in self._settled and taken_in(self._store, letter):
            self._settled.add(letter.event_id)
        return letter.event_id in self._settled

    def _scanned(self, only: Collection[str] | None) -> list[ObjectInfo]:
        if only is None:
            return [info for info in self._store.list("slides/") if info.key.endswith("/scanned.json")]
        heads = (self._store.head(keys.scanned_key(slide_id)) for slide_id in sorted(only))
        return [info for info in heads if info]

    def _state(self, event: Event, letters: Iterable[DeadLetter]) -> SlideState:
        """Say where a slide stands. `letters`: of its trace."""
        data = event.data
        assert isinstance(data, SlideScanned)
        if event.name in self._drafted:  # there is no way back from that
            return self._drafted[event.name]
        if draft := self.drafted(data):
            self._drafted[event.name] = SlideState(data.slide_id, "drafted", event, draft)
            return self._drafted[event.name]
        if own := [letter for letter in letters if _came_of(letter, event)]:
            last = max(own, key=lambda letter: letter.event.replay if letter.event else 0)
            return SlideState(data.slide_id, "dead-letter", event, letter=last)
        if self._bagged(data):
            return SlideState(data.slide_id, "bagged", event, lacks=self._lacks(data))
        return SlideState(data.slide_id, "scanned", event)

    def _lacks(self, slide: SlideScanned) -> tuple[str, ...]:
        """List what its case waits for; nothing as long as no reporter has put the slide's own bag to it."""
        if not (slide.case_id and slide.case_slides):
            return ()
        missing = missing_slides(self._store, slide.case_id, slide.case_slides)
        return () if slide.slide_id in missing else tuple(missing)

    def drafted(self, slide: SlideScanned) -> DraftFacts | None:
        """Return the draft of this very scan; of a rescanned slide an older draft does not count.

        It is the latest report of the slide's, or of its case's, that tells of the slide: what a record says
        it is of decides, not where it lies or who points to it.
        """
        owner = report_owner(slide)
        for draft in self._reports(owner, pointers_of(owner)):
            told = draft.part(slide.slide_id)
            if told and tells_of(owner, vars(draft)):
                return draft if _same_scan(told, slide) else None
        return None

    def strangers(self, slide: SlideScanned) -> list[DraftFacts]:
        """Return the reports that a pointer of the slide's names before its own, and that are another's."""
        owner = report_owner(slide)
        found = self._reports(owner, [owner.latest])
        return list(takewhile(lambda draft: not tells_of(owner, vars(draft)), found))

    def _reports(self, owner: keys.ReportOwner, pointers: Iterable[str]) -> Iterator[DraftFacts]:
        """Read all reports that pointers name as the owner's, the latest first."""
        for pointer in filter(None, map(self._json, pointers)):
            for key in named_drafts(owner, pointer):
                if draft := self._facts(key):
                    yield draft

    def _facts(self, key: str) -> DraftFacts | None:
        try:
            info = self._store.head(key)
            return self._once(info, lambda data: DraftFacts.read(info.key, data)) if info else None
        except (InvalidInputError, ValueError, TypeError, AttributeError, KeyError):
            return None

    def _bagged(self, slide: SlideScanned) -> bool:
        infos = self._store.list(keys.bags_prefix(slide.slide_id))
        scans = (self._json(info.key, info) for info in infos if info.key.endswith(".scan.json"))
        return any(_same_scan(scan, slide) for scan in scans if scan)

    def _event(self, info: ObjectInfo) -> Event | None:
        try:
            event = self._once(info, recorded_scan)
        except InvalidInputError:
            return None
        return event if event and keys.scanned_key(event.key) == info.key else None  # else it is another's

    def _letter(self, info: ObjectInfo) -> DeadLetter | None:
        try:
            return self._once(info, DeadLetter.from_bytes)
        except InvalidInputError:
            return None  # removed since, or of another version: nothing that could be shown

    def _json(self, key: str, info: ObjectInfo | None = None) -> dict[str, Any] | None:
        info = info or self._store.head(key)
        try:
            value = self._once(info, json.loads) if info else None
        except (InvalidInputError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def _each(self, readers: ThreadPoolExecutor, call: Callable[[S], T], items: Iterable[S]) -> list[T]:
        """Call with each item, in some threads; each takes many: small tasks cost more than the calls."""
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


def report_owner(slide: SlideScanned) -> keys.ReportOwner:
    """Return whose report tells of a slide: its own, or its case's if the case has slides to wait for."""
    if slide.case_id and slide.case_slides:
        return keys.ReportOwner(slide.case_id, is_case=True)
    return keys.ReportOwner(slide.slide_id)


def _trace(event: Event) -> tuple[str, str]:
    """Name the trace of a slide; some senders give all of their slides one and the same."""
    return event.key, event.trace_id


def _by_trace(letters: Iterable[DeadLetter]) -> dict[tuple[str, str], list[DeadLetter]]:
    found: dict[tuple[str, str], list[DeadLetter]] = {}
    for letter in letters:
        if letter.event:
            found.setdefault(_trace(letter.event), []).append(letter)
    return found


def _came_of(letter: DeadLetter, scan: Event) -> bool:
    """Whether a letter of the slide's trace is of this scan or what followed, not of another of one trace."""
    event = letter.event
    if event is None or event.replay or letter.is_of(scan):
        return event is not None
    return event.id in {following_id(name, event.type) for name in (scan.name, scan.id)}


def _strays(letters: Iterable[DeadLetter], events: list[Event]) -> list[SlideState]:
    """Return dead letters of no slide in `events`: unreadable records, and slides refused for their name.

    A letter of the same file or the same bytes as a slide in `events` is history: it was sent again since.
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


def _told(scan: dict[str, Any]) -> dict[str, Any]:
    return {"content_id": scan["content_id"], "mpp": scan["mpp"]}


def _same_scan(told: dict[str, Any], slide: SlideScanned) -> bool:
    """Whether a record was made from these bytes, and at the mpp that was stated, if one was."""
    stated = slide.mpp is None or told.get("mpp") == slide.mpp
    return told.get("slide_id") == slide.slide_id and told.get("content_id") == slide.content_id and stated
