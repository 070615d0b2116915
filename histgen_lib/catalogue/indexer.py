"""Keeping the index of slides right, by reading the store alone, at a cost that nobody notices.

A slide that is known to have changed is looked at within two seconds: the gateway and the commands touch
those that they announce or replay. Of the others, unfinished slides are looked at again and again, ever more
seldom, and at once when one before them in the queue has moved on, since workers take slides in order. What
nobody reported (other gateways, a bucket's other writers) is found by listing the store from time to time.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.catalogue.index import NEWS_S, NEXT, Change, Due, End, Index, Look, open_index, store_name
from histgen_lib.catalogue.keys import BY_HAND, COPIES, LETTERS, OWNERS, SLIDES, scanned_key, slide_of_scanned
from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.states import SlideState
from histgen_lib.errors import HistgenError, InvalidInputError
from histgen_lib.events import SlideScanned
from histgen_lib.storage import ObjectInfo, ObjectStore, StorageSettings, open_store

_PARTS = (LETTERS, COPIES, SLIDES, OWNERS, BY_HAND)
"""The prefixes that are listed, in this order."""
_REST_S, _AT_WORK_S = 2.0, 0.05
"""Least pauses between two turns: where nothing is to be done, and where something is."""
_SHARE, _BUILDING_SHARE, _LISTING_SHARE = 0.1, 0.5, 0.004
"""The largest shares of time spent: at work, on an index that is made anew, on listing at rest."""
_BATCH, _SLICE = 64, 500
_LIST_S = 5.0
_FIRST_S, _MOST_S, _EACH_S, _ENDED_S, _DAMAGED_S = 0.5, 2.0, 0.02, 86400.0, 60.0
"""How soon unfinished slides are looked at again, at first and at most, and how much later for each of them;
and how soon those that ended, and those of them that are damaged, which may be repaired at any moment."""
_NEXT_IN_QUEUE = 16
_BEAT_S = 5.0
_LAST_S = 5.0
"""How long a stack that stops may take to leave an index that is right."""


class Indexer:
    """Keeps an index. `clock`: monotonic seconds; `now`: seconds since 1970."""

    def __init__(
        self,
        store: ObjectStore,
        index: Index,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._index, self._clock, self._now = store, index, clock, now
        self._whole = bool(index.fact("whole"))
        self._unlisted = set(_PARTS)
        self._listings: dict[str, Iterator[bool]] = {}
        self._beat_at = float("-inf")
        index.note("settled", "")

    def turn(self) -> float:
        """Do a bounded piece of work; return how many seconds to wait before the next.

        Raises sqlite3.Error, and what the store raises.
        """
        began = self._clock()
        looked = look_at(self._store, self._index, self._index.due(self._now(), _BATCH), self._now())
        listed = [self._list_on(prefix) for prefix in _PARTS]
        self._note_progress(began)
        spent = self._clock() - began
        if not (looked or any(listed)):
            return max(_REST_S, spent / _SHARE)
        return max(_AT_WORK_S, spent / (_SHARE if self._whole else _BUILDING_SHARE))

    def _note_progress(self, began: float) -> None:
        """Note that the index is kept, and whether all of the store is in it."""
        if not self._whole and not self._unlisted and not self._index.has_new():
            self._whole = True
            self._index.note("whole", "yes")
        if began - self._beat_at >= _BEAT_S:
            self._beat_at = began
            self._index.note("kept", f"{self._now():.3f}")

    def _list_on(self, prefix: str) -> bool:
        """List another slice of a part of the store, if it is time for that."""
        listing = self._listings.pop(prefix, None) or self._listing(prefix)
        worked = next(listing)
        self._listings[prefix] = listing  # one that failed begins again
        return worked

    def _listing(self, prefix: str) -> Iterator[bool]:
        """Compare a part of the store with what is known of it, forever; yield True after each slice."""
        while True:
            spent = 0.0
            slices = self._compared(prefix)
            while True:
                began = self._clock()
                more = next(slices, False)
                spent += self._clock() - began
                if not more:
                    break
                yield True
            self._unlisted.discard(prefix)
            due = self._clock() + max(_LIST_S, spent / _LISTING_SHARE)
            while self._clock() < due:
                yield False

    def _compared(self, prefix: str) -> Iterator[bool]:
        """Note what is new, changed or gone; yield True after each slice."""
        found = differences(self._store.list(prefix), self._known(prefix))
        while part := list(islice(found, _SLICE)):
            changes = (self._change(prefix, key, info) for key, info in part if key)
            self._index.listed([change for change in changes if change])
            yield True

    def _change(self, prefix: str, key: str, info: ObjectInfo | None) -> Change | None:
        if info is None:
            return Change(key)
        subject = self._subject(prefix, key)
        known = prefix in (OWNERS, BY_HAND) and bool(self._index.whose(scanned_key(subject)))
        return Change(key, info.etag, subject, news=not known) if subject else None

    def _known(self, prefix: str) -> Iterator[tuple[str, str]]:
        after = ""
        while page := self._index.known(prefix, after, _SLICE):
            yield from page
            after = page[-1][0]

    def _subject(self, prefix: str, key: str) -> str:
        """Return the subject that an object concerns; "" for none."""
        if prefix == LETTERS:
            letter = _letter(self._store, key)
            if letter is None:
                return ""
            return letter.event.key if letter.event else self._index.whose(key) or key
        name = key.removeprefix(prefix)
        if prefix in (OWNERS, BY_HAND):
            return name.partition("/")[0]
        if prefix == COPIES:
            return name.partition("/")[2]
        return slide_of_scanned(key)


def look_at(store: ObjectStore, index: Index, subjects: Sequence[Due], now: float) -> int:
    """Look at subjects and write what is found; return how many there were. Raises as `Indexer.turn`."""
    if not subjects:
        return 0
    letters = [due for due in subjects if due.subject.startswith(LETTERS)]
    slides = [due for due in subjects if due not in letters]
    found = _look_at_slides(store, index, slides, now)
    for due in letters:
        letter = _letter(store, due.subject)
        states = [SlideState("unknown", "dead-letter", letter=letter)] if letter else []
        ends = _new_ends(store, index.of(due.subject), states, now)
        found.append(Look(due, states, now + _ENDED_S, 0, ends))
    index.write(found)
    return len(found)


def look_up(store: ObjectStore, index: Index, slide_ids: Iterable[str]) -> list[SlideState]:
    """Return where slides stand, read from the store; the index only says which letters may be theirs."""
    overview, ids = Overview(store), list(slide_ids)
    scans = [info for slide_id in ids if (info := _scan(overview, slide_id))]
    noted = [letter for slide_id in ids for letter in index.letters_of(slide_id)]
    return _with_copies(overview.named(scans, noted), index)


def settle(
    store: ObjectStore,
    index: Index,
    *,
    until: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], float] = time.time,
) -> None:
    """Look at all that may have changed since the index was last kept, while no stack runs.

    `until`: when to stop, by `clock`, in monotonic seconds; the rest is left to the next call. `now`: seconds
    since 1970. Raises as `Indexer.turn`.
    """
    if index.fact("settled") == "yes":
        return
    if index.fact("settled") != "begun":
        index.unsettle()
        index.note("settled", "begun")
    while left := index.due(NEXT, _BATCH):
        if clock() > until:
            return
        look_at(store, index, left, now())
    index.note("settled", "yes")


def settle_stopped(path: Path, storage: StorageSettings) -> None:
    """Settle the index in a file within a few seconds, as far as file and store allow; never raises."""
    with suppress(sqlite3.Error, HistgenError):
        if index := open_index(path, store_name(storage)):
            with closing(index):
                settle(open_store(storage), index, until=time.monotonic() + _LAST_S)


def differences(
    listed: Iterable[ObjectInfo], known: Iterable[tuple[str, str]]
) -> Iterator[tuple[str, ObjectInfo | None]]:
    """Merge a listing with what is known, both by key; memory stays flat.

    Yields what is new or changed with its info, what is gone with None, and ("", None) for what is unchanged.
    """
    left = iter(known)
    key, etag = next(left, ("", ""))
    for info in listed:
        while key and key < info.key:
            yield key, None
            key, etag = next(left, ("", ""))
        same = key == info.key
        yield ("", None) if same and etag == info.etag else (info.key, info)
        if same:
            key, etag = next(left, ("", ""))
    while key:
        yield key, None
        key, etag = next(left, ("", ""))


def _look_at_slides(store: ObjectStore, index: Index, subjects: Sequence[Due], now: float) -> list[Look]:
    overview = Overview(store)
    scans = {due.subject: _scan(overview, due.subject) for due in subjects}
    noted = [letter for due in subjects for letter in index.letters_of(due.subject)]
    states = overview.named([info for info in scans.values() if info], noted)
    by_slide: dict[str, list[SlideState]] = {due.subject: [] for due in subjects}
    for state in _with_copies(states, index):
        by_slide.get(state.slide_id, []).append(state)
    most_s = max(_MOST_S, _EACH_S * index.unfinished())
    found = []
    for due in subjects:
        before, own = index.of(due.subject), by_slide[due.subject]
        misses, ends = _misses(index, due, before, own), _new_ends(store, before, own, now)
        ended_s = _DAMAGED_S if any(one.damaged for one in own) else _ENDED_S
        wait_s = ended_s if all(one.ended for one in own) else min(most_s, _FIRST_S * 2 ** min(misses, 20))
        info = scans[due.subject]
        record = (info.key, info.etag) if info and info.etag else ("", "")
        found.append(Look(due, own, now + wait_s, misses, ends, *record))
    return found


def _new_ends(
    store: ObjectStore, before: Sequence[SlideState], states: Sequence[SlideState], now: float
) -> list[End]:
    """Return the ends that were not there before, as far as they may be news."""
    known = {state.ending for state in before}
    new = (state for state in states if state.ended and state.ending not in known)
    ends = (End(_ended_at(store, state), not before, state) for state in new)
    return [end for end in ends if end.at > now - NEWS_S]


def _ended_at(store: ObjectStore, slide: SlideState) -> float:
    """Return when a slide ended: when its last object was written, but not before its event was sent."""
    events = [event for event in (slide.event, slide.letter and slide.letter.event) if event]
    info = store.head(slide.end)
    return max([info.modified_at if info else 0.0, *(event.time.timestamp() for event in events)])


def _misses(index: Index, due: Due, before: Sequence[SlideState], states: Sequence[SlideState]) -> int:
    """Count the looks that found nothing new; one that did has others looked at that it may concern."""
    if _standing(before) == _standing(states):
        return due.misses + 1
    waits = {state.state for state in states}
    for state in before:
        if not state.ended and state.state not in waits:
            # Workers take slides in order, so the next ones are about to move, too.
            index.hurry_queue(state.state, state.scanned_at, _NEXT_IN_QUEUE)
    for state in states:
        index.hurry(state.mates)
        if state.event and isinstance(state.event.data, SlideScanned):
            index.hurry_refused(state.event.data.content_id)
    return 0


def _standing(states: Iterable[SlideState]) -> list[tuple[str, ...]]:
    return [
        (one.state, one.event.name if one.event else "", one.end, *one.lacks, *one.damaged) for one in states
    ]


def _with_copies(states: Iterable[SlideState], index: Index) -> list[SlideState]:
    return [replace(one, copies=index.copies_of(one.slide_id)) if one.event else one for one in states]


def _scan(overview: Overview, slide_id: str) -> ObjectInfo | None:
    try:
        return overview.scan_of(slide_id)
    except InvalidInputError:  # a letter's slide id that cannot be part of a key
        return None


def _letter(store: ObjectStore, key: str) -> DeadLetter | None:
    data = store.find(key)
    if data is None:  # removed since
        return None
    try:
        return DeadLetter.from_bytes(data)
    except InvalidInputError:
        return DeadLetter.unreadable(key, len(data))
