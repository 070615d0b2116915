"""The one way in: whoever tells of a slide, it is read, recognised by its bytes, and announced once.

The event is published before it is written down. A crash in between has the same event published again, with
the same id, when the slide is told of again: consumers recognise it. The audit log is told first of all, so
that nothing is announced of which it does not know who submitted it.
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
from histgen_lib.catalogue.overview import Overview
from histgen_lib.catalogue.registry import Announcement, Owner, taken
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.events import DEAD_LETTER, Event, SlideScanned
from histgen_lib.storage import JSON, ObjectStore
from histgen_lib.telemetry import bound, get_logger, metrics, tell_span
from services.gateway.board import NAME
from services.gateway.contents import Content, Contents
from services.gateway.ledger import Ledger
from services.gateway.submission import Case, Receipt, Status, Submission, check, check_member

SOURCE = f"/histgen/{NAME}"
DECIDE_S = 10.0

_log = get_logger()


class Intake:
    """Takes slides in. Safe to use from several threads; several processes may share broker and store.

    `now`: the time of events, UTC. `announced` counts. `told`: is told whose slide has news, and in which
    object they are if it is not the slide's own.
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
        self.told: Callable[[str, str], None] = lambda slide_id, key: None
        self._publisher, self._store, self._now = publisher, store, now
        self._audit, self._audited = Audit(store, now=now), set[str]()
        self._deciding = threading.Lock()

    def submit(self, submission: Submission, slots: threading.Semaphore | None = None) -> Receipt:
        """Take a slide in; durable when this returns. `slots`: as many files as may be read at a time.

        Raises InvalidInputError: those of `check`, `check_member` and `Contents.measure`; TransientError when
        broker or store are away: then submit it again.
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
        """Write a dead letter and tell of it; doing it twice is harmless."""
        new = self._store.put(letter.key, letter.to_bytes(), content_type=JSON)
        told = letter.announcement(source=SOURCE, now=self._now())
        self._publisher.publish(DEAD_LETTER, told.key, told)
        self.told(letter.event.key if letter.event else letter.key, letter.key)
        if new:
            metrics.DEAD_LETTERS.labels(NAME, letter.code).inc()
            _log.warning("Given up.", code=letter.code, message=letter.message, key=letter.key)

    def _take(self, submission: Submission, slots: threading.Semaphore | None) -> Receipt:
        name = self.contents.name(submission.place)
        check(submission)
        mark = submission.mark
        if mark and (noted := self.ledger.seen(mark)):
            return self._named(submission, name, Receipt(*noted, "duplicate"))
        content = self.contents.measure(submission.place, slots)
        with self._alone():
            receipt = self._decide(submission, name, content)
        self._named(submission, name, receipt)
        if mark:
            self.ledger.remember(mark, receipt.slide_id, receipt.event_id)
        return receipt

    def _named(self, told: Submission, name: str, receipt: Receipt) -> Receipt:
        """Write down that a file with another name is this slide, so that it is found by either."""
        slide_id = receipt.slide_id
        if told.slide_id is None and name != slide_id:
            key = self.ledger.name_copy(name, slide_id, told.place.uri)
            if key:
                self.told(slide_id, key)
        return receipt

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Decide on one slide at a time; with a server away the queue would never end, so waiting does."""
        if not self._deciding.acquire(timeout=DECIDE_S):
            raise TransientError(
                "gateway-busy",
                "The gateway waits for its broker or store.",
                hint="Try again in a few seconds.",
            )
        try:
            yield
        finally:
            self._deciding.release()

    def _decide(self, told: Submission, name: str, content: Content) -> Receipt:
        known = self.ledger.with_content(content.content_id)
        slide_id = told.slide_id or _id_among(name, known)
        same = [found for found in known if found.data.slide_id == slide_id]
        latest = self.ledger.latest(slide_id)
        data = _stated(told, content, slide_id, _before(latest, same))
        data = replace(data, turn=latest.data.turn if latest else 0)
        said = [found for found in same if _statement(found.data) == _statement(data)]
        if said and (_is_return(told, latest, said, same) or self._has_moved(told, latest, said)):
            data = replace(data, turn=data.turn + 1)
        elif said and not _is_unrecorded(latest, data, said):
            letter = letter_of_scan(self._store, said[-1].event)
            return Receipt(slide_id, said[-1].event.name, "dead-letter" if letter else "duplicate", letter)
        elif not said and latest and _statement(latest.data) != _statement(data):
            data = replace(data, turn=data.turn + 1)  # what is made of it is later than all before
        event = Event.first(data, source=SOURCE, now=self._now(), identity=identity(data))
        if same:
            return self._announce(event, "accepted", told)
        mine = Owner(told.place.uri, content.content_id)
        owner = self.ledger.claim(slide_id, mine)
        if mine.uri == owner.uri:
            return self._announce(event, "rescan" if latest else "accepted", told)
        if mine.content_id == owner.content_id:
            return self._announce(event, "accepted", told)
        return self._refuse_taken(event, told)

    def _has_moved(self, told: Submission, latest: Announcement | None, said: Sequence[Announcement]) -> bool:
        """Whether a slide that no report tells of yet has left the place it was announced from."""
        if latest is None or latest not in said or latest.data.uri == told.place.uri:
            return False
        return not self.contents.lies_at(latest.data.uri) and not Overview(self._store).drafted(latest.data)

    def _announce(self, event: Event, status: Status, told: Submission) -> Receipt:
        with bound(slide_id=event.key, event_id=event.name, trace_id=event.trace_id):
            self._write_down(event, status, told)
            self._publisher.publish(event.type, event.key, event)
            self.ledger.record(event)
            self._audited.discard(event.id)
            self.announced += 1
            self.told(event.key, "")
            _log.info("Announced.", outcome=status)
            tell_span(
                "publish",
                event.type,
                traceparent=event.traceparent,
                began_at=event.time.timestamp(),
                ended_at=self._now().timestamp(),
                facts={"slide_id": event.key, "event_id": event.name, "outcome": status},
            )
        return Receipt(event.key, event.id, status)

    def _write_down(self, event: Event, status: Status, told: Submission) -> None:
        """Tell the audit log, once: while the broker is away the same is tried again and again."""
        if event.id not in self._audited:
            deed = {"slide_id": event.key, "event_id": event.id, "outcome": status, "via": told.via}
            self._audit.append("submitted", told.by or told.via, deed)
            self._audited.add(event.id)

    def _refuse_taken(self, event: Event, told: Submission) -> Receipt:
        """Give up a slide whose id belongs to other bytes from elsewhere: two slides must never be mixed."""
        assert isinstance(event.data, SlideScanned)
        data = replace(event.data, turn=0)
        lost = Event.first(data, source=SOURCE, now=self._now(), identity=f"{identity(data)}|{data.uri}")
        letter = DeadLetter.of_event(lost, taken(event.key), attempts=0, worker=NAME)
        self._write_down(lost, "dead-letter", told)
        self.give_up(letter)
        self._audited.discard(lost.id)
        return Receipt(event.key, lost.id, "dead-letter", letter)


def identity(data: SlideScanned) -> str:
    """Name what happened, whoever tells it and when: these bytes, under this id, with this said of them."""
    return f"{_statement(data)}|{data.turn}" if data.turn else _statement(data)


def _statement(data: SlideScanned) -> str:
    """Name the same, in whichever turn it is said."""
    case = Case(data.case_id, data.case_slides).identity if data.case_id else ""
    return f"{data.slide_id}|{data.content_id}|{data.mpp}|{case}"


def _stated(told: Submission, content: Content, slide_id: str, before: SlideScanned | None) -> SlideScanned:
    """Put together what is known of a slide; what is not stated now holds as it was stated `before`."""
    case = told.case or (Case(before.case_id, before.case_slides) if before and before.case_id else None)
    if case:
        check_member(case, slide_id)
    return SlideScanned(
        slide_id=slide_id,
        uri=told.place.uri,
        content_id=content.content_id,
        size_bytes=content.size_bytes,
        mpp=told.mpp if told.mpp is not None or before is None else before.mpp,
        case_id=case.id if case else None,
        case_slides=case.slides if case else (),
    )


def _before(latest: Announcement | None, same: Sequence[Announcement]) -> SlideScanned | None:
    """Return what was said last of these bytes under this slide id."""
    if latest is not None and latest in same:
        return latest.data
    return same[-1].data if same else None


def _is_return(
    told: Submission, latest: Announcement | None, said: Sequence[Announcement], same: Sequence[Announcement]
) -> bool:
    """Whether a slide is to be again what was `said` of it earlier, and not lately.

    So it is if of the same bytes something is stated anew, or if the slide's own place has its old bytes
    again. A copy that lies elsewhere says nothing.
    """
    if latest is None or _statement(latest.data) == _statement(said[0].data):
        return False
    return latest in same or told.place.uri == latest.data.uri


def _is_unrecorded(latest: Announcement | None, data: SlideScanned, said: Sequence[Announcement]) -> bool:
    """Whether a gateway ended after it had announced just this, and before its books were whole."""
    return latest is not None and _statement(latest.data) == _statement(data) and latest not in said


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
