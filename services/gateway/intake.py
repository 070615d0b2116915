"""The one way in: a submitted slide is read, recognised by its bytes, and announced once.

An event is published before it is recorded. After a crash in between, the same event is published again, with
the same id, when the slide is submitted again; consumers recognise it. The audit log is written first of all,
so that nothing is announced without a record of who submitted it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from histgen_lib.bus import Publisher
from histgen_lib.catalogue.audit import Audit
from histgen_lib.catalogue.dead_letter import DeadLetter, letter_of_scan
from histgen_lib.catalogue.keys import SEEN, contents_prefix, copy_key
from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.registry import (
    Announcement,
    Owner,
    claim,
    latest_announcement,
    read_announcement,
    taken,
    write_down,
)
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.events import DEAD_LETTER, Event, SlideScanned
from histgen_lib.files import sealed_json, unsealed_object
from histgen_lib.storage import JSON, ObjectStore
from histgen_lib.telemetry import bound, get_logger, metrics, record_span
from services.gateway import NAME
from services.gateway.contents import Content, Contents
from services.gateway.submission import Case, Receipt, Status, Submission, check, check_member

SOURCE = f"/histgen/{NAME}"
DECIDE_S = 10.0
"""How long a request waits for the slide before it to be decided."""

_log = get_logger()


class Ledger:
    """What the gateway remembers, in the object store. Raises what the store raises.

    slides/<slide_id>/scanned.json            the slide's latest slide.scanned event
    gateway/owners/<slide_id>                 the URI that owns a slide id, claimed before its first event
    gateway/contents/<content_id>/<event>     every event announced with these bytes: the index by content
    gateway/copies/<name>/<slide_id>          a file called <name> that holds the slide's bytes, by its URI
    gateway/seen/<mark>                       a file or object in a state that needs no second look
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def claim(self, slide_id: str, owner: Owner) -> Owner:
        """Claim a slide id unless it has an owner; return its owner."""
        return claim(self._store, slide_id, owner)

    def latest(self, slide_id: str) -> Announcement | None:
        """Return the slide's latest event; if its record is damaged, from the slide's other records."""
        return latest_announcement(self._store, slide_id)

    def with_content(self, content_id: str) -> list[Announcement]:
        """Return the events announced with these bytes, under any slide id, oldest first."""
        keys = [info.key for info in self._store.list(contents_prefix(content_id))]
        events = [found for key in keys if (found := read_announcement(self._store.find(key)))]
        return sorted(events, key=lambda found: (found.event.time, found.event.id))

    def record(self, event: Event) -> None:
        """Record an acknowledged event; the index by content comes last, as it is what says "announced"."""
        write_down(self._store, event)

    def name_copy(self, name: str, slide_id: str, uri: str) -> str:
        """Record that a file called `name` is this slide; return the record's key if it is new, else ""."""
        key = copy_key(name, slide_id)
        note = sealed_json({"schema": 1, "slide_id": slide_id, "uri": uri})
        return key if self._store.put(key, note, content_type=JSON) else ""

    def remember(self, mark: str, slide_id: str, event_id: str) -> None:
        """Record that a file or object in this state was dealt with."""
        note = sealed_json({"slide_id": slide_id, "event_id": event_id})
        self._store.put(SEEN + mark, note, if_absent=False, content_type=JSON)

    def seen(self, mark: str) -> tuple[str, str] | None:
        """Return the slide id and event id recorded for this state; None if there are none, or damaged."""
        note = unsealed_object(self._store.find(SEEN + mark))
        if not {"slide_id", "event_id"} <= set(note):
            return None
        return str(note["slide_id"]), str(note["event_id"])

    def all_seen(self) -> Iterator[str]:
        """List every state that was dealt with."""
        return (info.key.removeprefix(SEEN) for info in self._store.list(SEEN))


class Intake:
    """Takes slides in. Safe to use from several threads; several processes may share broker and store.

    `now`: the time of events, UTC. `announced`: how many slides were announced. `on_news` is called with the
    id of a slide that has news, and with the key of the object that holds them if it is not the slide's own.
    """

    def __init__(
        self,
        publisher: Publisher,
        store: ObjectStore,
        contents: Contents,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.contents = contents
        self.ledger = Ledger(store)
        self.announced = 0
        self.on_news: Callable[[str, str], None] = lambda slide_id, key: None
        self._publisher, self._store, self._now = publisher, store, now
        self._audit, self._audited = Audit(store, now=now), set[str]()
        self._deciding = threading.Lock()

    def submit(self, submission: Submission, slots: threading.Semaphore | None = None) -> Receipt:
        """Take a slide in; the outcome is durable on return. `slots`: as in `Contents.measure`.

        Raises InvalidInputError as `check`, `check_member` and `Contents.measure` do, and TransientError when
        broker or store are not available: then submit it again.
        """
        with bound(via=submission.via, uri=submission.place.uri):
            try:
                receipt = self._take(submission, slots)
            except InvalidInputError as error:
                metrics.SLIDES_REFUSED.labels(error.code).inc()
                raise
            _count(submission, receipt)
            return receipt

    def give_up(self, letter: DeadLetter) -> None:
        """Write a dead letter and publish it; doing it twice is harmless."""
        new = self._store.put(letter.key, letter.to_bytes(), content_type=JSON)
        event = letter.announcement(source=SOURCE, now=self._now())
        self._publisher.publish(DEAD_LETTER, event.key, event)
        self.on_news(letter.event.key if letter.event else letter.key, letter.key)
        if new:
            metrics.DEAD_LETTERS.labels(NAME, letter.code).inc()
            _log.warning("Given up.", code=letter.code, message=letter.message, key=letter.key)

    def _take(self, submission: Submission, slots: threading.Semaphore | None) -> Receipt:
        name = self.contents.name(submission.place)
        check(submission)
        mark = submission.mark
        if mark and (seen := self.ledger.seen(mark)):
            return self._note_name(submission, name, Receipt(*seen, "duplicate"))
        content = self.contents.measure(submission.place, slots)
        with self._one_at_a_time():
            receipt = self._decide(submission, name, content)
        self._note_name(submission, name, receipt)
        if mark:
            self.ledger.remember(mark, receipt.slide_id, receipt.event_id)
        return receipt

    def _note_name(self, submission: Submission, name: str, receipt: Receipt) -> Receipt:
        """Record that a file with another name is this slide, so that it is found by either name."""
        slide_id = receipt.slide_id
        if submission.slide_id is None and name != slide_id:
            key = self.ledger.name_copy(name, slide_id, submission.place.uri)
            if key:
                self.on_news(slide_id, key)
        return receipt

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Decide on one slide at a time. The wait has a limit: during an outage the queue would never end."""
        if not self._deciding.acquire(timeout=DECIDE_S):
            raise TransientError(
                "gateway-busy",
                "The gateway is waiting for its broker or store.",
                hint="Try again in a few seconds.",
            )
        try:
            yield
        finally:
            self._deciding.release()

    def _decide(self, submission: Submission, name: str, content: Content) -> Receipt:
        known = self.ledger.with_content(content.content_id)
        slide_id = submission.slide_id or _id_among(name, known)
        same = [found for found in known if found.data.slide_id == slide_id]
        latest = self.ledger.latest(slide_id)
        data = _scan_of(submission, content, slide_id, _before(latest, same))
        data = replace(data, turn=latest.data.turn if latest else 0)
        repeated = [found for found in same if _statement(found.data) == _statement(data)]
        if repeated and (
            _is_return(submission, latest, repeated, same) or self._has_moved(submission, latest, repeated)
        ):
            data = replace(data, turn=data.turn + 1)
        elif repeated and not _is_unrecorded(latest, data, repeated):
            letter = letter_of_scan(self._store, repeated[-1].event)
            status: Status = "dead-letter" if letter else "duplicate"
            return Receipt(slide_id, repeated[-1].event.name, status, letter)
        elif not repeated and latest and _statement(latest.data) != _statement(data):
            data = replace(data, turn=data.turn + 1)  # its results supersede all earlier ones
        event = Event.first(data, source=SOURCE, now=self._now(), identity=identity(data))
        if same:
            return self._announce(event, "accepted", submission)
        claimant = Owner(submission.place.uri, content.content_id)
        owner = self.ledger.claim(slide_id, claimant)
        if claimant.uri == owner.uri:
            return self._announce(event, "rescan" if latest else "accepted", submission)
        if claimant.content_id == owner.content_id:
            return self._announce(event, "accepted", submission)
        return self._refuse_taken(event, submission)

    def _has_moved(
        self, submission: Submission, latest: Announcement | None, repeated: Sequence[Announcement]
    ) -> bool:
        """Return whether a slide without a report has left the place it was announced from."""
        if latest is None or latest not in repeated or latest.data.uri == submission.place.uri:
            return False
        return not self.contents.exists(latest.data.uri) and not Overview(self._store).drafted(latest.data)

    def _announce(self, event: Event, status: Status, submission: Submission) -> Receipt:
        with bound(slide_id=event.key, event_id=event.name, trace_id=event.trace_id):
            self._audit_once(event, status, submission)
            self._publisher.publish(event.type, event.key, event)
            self.ledger.record(event)
            self._audited.discard(event.id)
            self.announced += 1
            self.on_news(event.key, "")
            _log.info("Announced.", outcome=status)
            record_span(
                "publish",
                event.type,
                traceparent=event.traceparent,
                began_at=event.time.timestamp(),
                ended_at=self._now().timestamp(),
                facts={"slide_id": event.key, "event_id": event.name, "outcome": status},
            )
        return Receipt(event.key, event.id, status)

    def _audit_once(self, event: Event, status: Status, submission: Submission) -> None:
        """Write the audit log once: while the broker is unavailable, the same event is tried repeatedly."""
        if event.id not in self._audited:
            what = {"slide_id": event.key, "event_id": event.id, "outcome": status, "via": submission.via}
            self._audit.append("submitted", submission.by or submission.via, what)
            self._audited.add(event.id)

    def _refuse_taken(self, event: Event, submission: Submission) -> Receipt:
        """Give up a slide whose id belongs to other bytes from elsewhere: two slides must never be mixed."""
        assert isinstance(event.data, SlideScanned)
        data = replace(event.data, turn=0)
        lost = Event.first(data, source=SOURCE, now=self._now(), identity=f"{identity(data)}|{data.uri}")
        letter = DeadLetter.of_event(lost, taken(event.key), attempts=0, worker=NAME)
        self._audit_once(lost, "dead-letter", submission)
        self.give_up(letter)
        self._audited.discard(lost.id)
        return Receipt(event.key, lost.id, "dead-letter", letter)


def identity(data: SlideScanned) -> str:
    """Identify what happened, whoever submits it and when: these bytes, this id, these statements."""
    return f"{_statement(data)}|{data.turn}" if data.turn else _statement(data)


def _statement(data: SlideScanned) -> str:
    """Identify the same without its turn."""
    case = Case(data.case_id, data.case_slides).identity if data.case_id else ""
    return f"{data.slide_id}|{data.content_id}|{data.mpp}|{case}"


def _scan_of(
    submission: Submission, content: Content, slide_id: str, before: SlideScanned | None
) -> SlideScanned:
    """Combine what is known of a slide; what is not stated now holds as it was stated `before`."""
    case = submission.case or (
        Case(before.case_id, before.case_slides) if before and before.case_id else None
    )
    if case:
        check_member(case, slide_id)
    return SlideScanned(
        slide_id=slide_id,
        uri=submission.place.uri,
        content_id=content.content_id,
        size_bytes=content.size_bytes,
        mpp=submission.mpp if submission.mpp is not None or before is None else before.mpp,
        case_id=case.id if case else None,
        case_slides=case.slides if case else (),
    )


def _before(latest: Announcement | None, same: Sequence[Announcement]) -> SlideScanned | None:
    """Return the last event of these bytes under this slide id."""
    if latest is not None and latest in same:
        return latest.data
    return same[-1].data if same else None


def _is_return(
    submission: Submission,
    latest: Announcement | None,
    repeated: Sequence[Announcement],
    same: Sequence[Announcement],
) -> bool:
    """Return whether a slide is to become again what it was before its latest event (`repeated`).

    That is so if an earlier statement about the same bytes is made again, or if the slide's own place has its
    earlier bytes again. A copy elsewhere does not count.
    """
    if latest is None or _statement(latest.data) == _statement(repeated[0].data):
        return False
    return latest in same or submission.place.uri == latest.data.uri


def _is_unrecorded(latest: Announcement | None, data: SlideScanned, repeated: Sequence[Announcement]) -> bool:
    """Return whether a gateway ended after it announced just this, and before it recorded all of it."""
    return latest is not None and _statement(latest.data) == _statement(data) and latest not in repeated


def _id_among(slide_id: str, known: list[Announcement]) -> str:
    """Return the id that these bytes were announced under: a copy under another name is the same slide."""
    ids = [found.data.slide_id for found in known]
    return slide_id if slide_id in ids or not ids else ids[0]


def _count(submission: Submission, receipt: Receipt) -> None:
    metrics.SLIDES_SEEN.labels(submission.via).inc()
    if receipt.status == "duplicate":
        metrics.SLIDES_DUPLICATE.inc()
        with bound(slide_id=receipt.slide_id, event_id=receipt.event_id):
            _log.info("Announced before.", outcome=receipt.status)
    if receipt.letter:
        metrics.SLIDES_REFUSED.labels(receipt.letter.code).inc()
