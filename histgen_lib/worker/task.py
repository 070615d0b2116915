"""One event, from its arrival until it is committed: the steps, and the decisions, one method each.

The guarantees rest on the order. An attempt is counted before its job begins; the job's objects are durable
before its events are published, and these before the record is committed. An event is given up in writing
first, then in public. And a finished object outweighs a dead letter, whoever wrote either, and when: each
writer looks for the other's after writing its own.
"""

from __future__ import annotations

from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from histgen_lib.bus import Delivery, Publisher, Reason, Subscription
from histgen_lib.catalogue.dead_letter import DeadLetter, keep_letter, letter_of
from histgen_lib.errors import HistgenError, InvalidInputError, TransientError
from histgen_lib.events import Event
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.pulse import Pulse, in_background
from histgen_lib.storage import ObjectStore
from histgen_lib.telemetry import add_measures, get_logger, metrics, record_span
from histgen_lib.worker.attempts import Attempt, Attempts
from histgen_lib.worker.failures import DIED, JobFailedError, unexpected_as_failure
from histgen_lib.worker.handler import Outcome, WorkerSpec
from histgen_lib.worker.retries import OWN, Retries
from histgen_lib.worker.runner import Runner

_log = get_logger()
_MISPLACED = InvalidInputError(
    "event-misplaced",
    "An event is on a topic for events of another type.",
    hint="Publish each event on the topic that has the name of its type.",
)


@dataclass(frozen=True)
class Worker:
    """A worker's parts, and the steps its records need; each is repeated until its server answers."""

    spec: WorkerSpec
    subscription: Subscription
    publisher: Publisher
    store: ObjectStore
    attempts: Attempts
    runner: Runner
    pulse: Pulse
    board: Board
    retries: Retries

    def publish(self, event: Event) -> None:
        """Return once `event` is durable on its topic."""
        send = partial(self.publisher.publish, event.type, event.key, event)
        self.pulse.insist("broker", send, background=True)

    def commit(self, delivery: Delivery) -> bool:
        """Mark the record as done; False if another member had it by then."""
        return self.pulse.insist("broker", lambda: self.subscription.done(delivery))

    def write_letter(self, letter: DeadLetter) -> DeadLetter:
        """Give up in writing. Return the letter in the store: an earlier one of this event stays."""
        kept, new = self.pulse.insist("store", partial(keep_letter, self.store, letter), background=True)
        if new:
            metrics.DEAD_LETTERS.labels(self.spec.name, kept.code).inc()
            _log.warning("An event is given up.", code=kept.code, attempts=kept.attempts, key=kept.key)
        return kept

    def read_letter(self, event: Event) -> DeadLetter | None:
        """Return the letter of an event that was given up before."""
        return self.pulse.insist("store", partial(letter_of, self.store, event), background=True)

    def remove_letter(self, event: Event) -> None:
        """Take back a letter that someone wrote before the job's objects were there."""
        if letter := self.read_letter(event):
            self.pulse.insist("store", partial(self.store.delete, letter.key), background=True)

    def set_aside(self, delivery: Delivery, event: Event, code: str, delay_s: float) -> bool:
        """Let other records pass this one for `delay_s`; False if no more can be set aside."""
        defer = partial(self.subscription.defer, delivery, delay_s)
        done = self.pulse.insist("broker", defer)
        if done and not self.pulse.lost:
            self.retries.set_aside(delivery, event, code, delay_s)
        return done

    def wait_in_hand(self, delay_s: float, reason: HistgenError) -> None:
        """Keep the record in hand and let some time pass before the next try."""
        self.board.wait_for(reason.code)
        self.pulse.pause(delay_s)
        self.board.phase = "working"

    def reject(self, delivery: Delivery, letter: DeadLetter) -> bool:
        """Give up in public; False if another member had the record by then."""
        announcement = letter.announcement(source=self.spec.source, now=self.board.now())
        reason = Reason(letter.code, announcement)
        return self.pulse.insist("broker", lambda: self.subscription.reject(delivery, reason))

    def refuse(self, delivery: Delivery) -> None:
        """Give up a record that is no event of ours, or that belongs on another topic."""
        name = self.spec.name
        if delivery.event:
            letter = DeadLetter.of_event(delivery.event, _MISPLACED, attempts=0, worker=name)
        else:
            letter = DeadLetter.of_record(delivery, delivery.unreadable or _MISPLACED, worker=name)
        letter = self.write_letter(letter)
        self.count("dead-letter" if self.reject(delivery, letter) else "lost")

    def count(self, how: str, seconds: float = 0.0) -> None:
        """Count a record that was worked on, by how that ended."""
        metrics.JOBS.labels(self.spec.name, how).inc()
        self.board.finished += how != "handed-back"
        _log.info("The record is finished.", outcome=how, seconds=round(seconds, 3))


class Task:
    """A record in hand that is an event of the worker's topic."""

    def __init__(self, worker: Worker, delivery: Delivery, event: Event) -> None:
        self._worker, self._delivery, self._event = worker, delivery, event
        self._clock = worker.board.clock
        self._beginning: Future[Attempt] | None = None
        self._counts = self._given_up = self._publishing = False
        self._arrived_at = self._tried_at = self._clock()
        self._job_s = 0.0

    def run(self) -> None:
        """Work until the record is done, given up or set aside.

        After Stopped or FatalError it is still in hand.
        """
        if not self._avoid_its_place():
            while not self._attempt():
                pass

    def withdraw(self, limit_s: float) -> None:
        """Uncount an attempt that did not end through any fault of the job. Takes `limit_s` at most."""
        if self._counts or self._beginning is None:
            return
        begun = wait([self._beginning], limit_s).done and not self._beginning.exception()
        if begun and self._current.key:
            self._worker.attempts.forget([self._current.key])

    def _avoid_its_place(self) -> bool:
        """Set a slide aside untried if its place is known to be away: to find that out again takes long."""
        wait_s = self._worker.retries.away_s(self._event)
        return wait_s > 0 and self._worker.set_aside(self._delivery, self._event, OWN, wait_s)

    def _attempt(self) -> bool:
        """Try once; True if the record is not in hand any more."""
        self._tried_at = self._clock()
        try:
            self._try_to_end()
        except TransientError as error:
            self._withdraw_now()
            return self._later(error)
        except JobFailedError as failed:
            return self._later(failed.reason)
        return True

    def _try_to_end(self) -> None:
        """Finish or give up the record. TransientError, JobFailedError: not this time."""
        try:
            with unexpected_as_failure():
                self._try()
        except InvalidInputError as error:
            self._give_up(error)
        except JobFailedError as failed:
            self._counts = True
            if self._current.number < min(self._worker.spec.max_attempts, failed.tries):
                raise
            self._give_up(failed.reason)

    def _later(self, reason: HistgenError) -> bool:
        """Set the record aside. False: keep it, as all records wait for the same, or no more can be aside."""
        worker = self._worker
        took_s = self._clock() - self._tried_at
        delay_s = worker.retries.delay_s(self._delivery, self._event, reason, took_s)
        metrics.RETRIES.labels(worker.spec.name, reason.code).inc()
        _log.warning("The job is tried again.", exc_info=reason, delay_s=round(delay_s, 3))
        if isinstance(reason, TransientError) and reason.code != OWN:
            worker.board.lacks("job", reason)
        pause_s, all_wait = min(delay_s, worker.spec.backoff.most_s), worker.retries.concerns_all(reason)
        if all_wait:
            worker.wait_in_hand(pause_s, reason)
            if not worker.retries.had_its_turn(self._delivery):
                return False
        if worker.set_aside(self._delivery, self._event, reason.code, delay_s):
            return True
        if not all_wait:
            worker.wait_in_hand(pause_s, reason)
        return False

    @property
    def _current(self) -> Attempt:
        """The attempt that was begun; an empty one if that failed."""
        beginning = self._beginning
        if beginning is None or not beginning.done() or beginning.exception():
            return Attempt(self._event.name, (), None)
        return beginning.result()

    @property
    def _foreign(self) -> bool:
        """Whether an earlier version may have given it up under another name, which has no attempts here."""
        return not self._event.is_ours

    def _try(self) -> None:
        found = self._begin()
        if found is not None:
            return self._finish(found, "found")
        if (self._current.earlier or self._foreign) and (letter := self._worker.read_letter(self._event)):
            return self._reject(letter)
        if self._current.key is None:  # the worker died with it the last time, or the reason would be known
            return self._give_up(DIED)
        began_at, number = self._clock(), self._current.number
        self._worker.board.begin_attempt(number)
        outcome = self._worker.runner.handle(self._event, number)
        self._job_s = self._clock() - began_at
        return self._finish(outcome, "done")

    def _begin(self) -> Outcome | None:
        """Count the attempt, and meanwhile look for finished objects; a look that crashes counts too."""
        worker, self._counts, self._publishing = self._worker, False, False
        self._beginning = in_background(
            partial(worker.attempts.begin, self._event.name, worker.spec.max_attempts)
        )
        try:
            with unexpected_as_failure():
                found = worker.runner.find(self._event)
        except (TransientError, InvalidInputError, JobFailedError) as failure:
            attempt = worker.pulse.until(self._beginning)
            if attempt.key or not isinstance(failure, JobFailedError):
                raise
            return None
        worker.pulse.until(self._beginning)
        return found

    def _finish(self, outcome: Outcome, how: str) -> None:
        worker = self._worker
        contested = bool(self._current.earlier) or self._foreign or worker.pulse.lost or self._given_up
        if contested:
            worker.remove_letter(self._event)
        self._publishing = True
        try:
            for event in outcome.events:
                worker.publish(event)
        except InvalidInputError as unfit:
            return self._reject(self._write_letter(unfit))
        self._publishing = False
        ours = worker.commit(self._delivery)
        if not ours and not contested:
            worker.remove_letter(self._event)
        worker.attempts.forget(self._current.keys)
        worker.board.has("job")
        if how == "done":
            worker.retries.got_through(self._event)
            self._measure(outcome)
        return self._end(how if ours else "lost", outcome)

    def _give_up(self, reason: HistgenError) -> None:
        """Write the letter, then look for objects after all, unless announcing them is what failed."""
        letter = self._write_letter(reason)
        found = None if self._publishing else self._look_again()
        return self._reject(letter) if found is None else self._finish(found, "found")

    def _write_letter(self, reason: HistgenError) -> DeadLetter:
        name, attempts = self._worker.spec.name, self._current.number
        letter = DeadLetter.of_event(self._event, reason, attempts=attempts, worker=name)
        self._counts = self._given_up = True  # from here on the attempt says that there is a letter
        return self._worker.write_letter(letter)

    def _look_again(self) -> Outcome | None:
        try:
            return self._worker.runner.find(self._event)
        except (JobFailedError, InvalidInputError):
            return None

    def _reject(self, letter: DeadLetter) -> None:
        self._counts = True
        ours = self._worker.reject(self._delivery, letter)
        self._worker.attempts.forget(key for key in self._current.keys if not key.endswith("/1"))
        self._end("dead-letter" if ours else "lost", code=letter.code)

    def _withdraw_now(self) -> None:
        self.withdraw(0.0)
        with suppress(TransientError):  # else it is tried again before the next attempt begins
            self._worker.pulse.until(in_background(partial(self._worker.attempts.sweep, self._event.name)))

    def _measure(self, outcome: Outcome) -> None:
        """Measure a job that was done, once it is committed."""
        spec = self._worker.spec
        add_measures(outcome.measures, worker=spec.name)
        metrics.OVERHEAD.labels(spec.name).observe(self._clock() - self._arrived_at - self._job_s)
        if spec.drafts and outcome.events:
            metrics.SCAN_TO_DRAFT.labels(spec.name).observe(self._worker.board.flight_s())

    def _end(self, how: str, outcome: Outcome | None = None, code: str = "") -> None:
        """Count the record, and trace what was done about it."""
        seconds, now = self._clock() - self._arrived_at, self._worker.board.now().timestamp()
        outcome = outcome or Outcome()
        self._worker.count(how, seconds)
        record_span(
            "process",
            self._event.type,
            traceparent=outcome.events[0].traceparent if outcome.events else "",
            parent=self._event.traceparent,
            began_at=now - seconds,
            ended_at=now,
            facts={
                "slide_id": self._event.key,
                "event_id": self._event.name,
                "outcome": how,
                "attempt": self._current.number,
                **{name.replace(":", "."): amount for name, amount in outcome.measures.items()},
            },
            code=code,
        )
