"""One event, from its arrival until it is committed: the decisions, one method each.

The order is what the guarantees rest on. An attempt is counted before the job begins; the job's objects are
durable before its events are published, these before the record is committed. An event is given up in writing
first, then in public. And a finished object wins over a letter, whoever wrote either and when: each writer
looks for the other's once its own is there.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial

from histgen_lib.bus import Delivery
from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.errors import HistgenError, InvalidInputError, TransientError
from histgen_lib.events import Event
from histgen_lib.runtime.pulse import in_background
from histgen_lib.telemetry import get_logger, metrics
from histgen_lib.worker.attempts import Trial
from histgen_lib.worker.failures import DIED, JobFailedError, foreseen
from histgen_lib.worker.handler import Outcome
from histgen_lib.worker.kit import Kit
from histgen_lib.worker.patience import OWN

_log = get_logger()


class Job:
    """A record that is an event, in hand."""

    def __init__(self, kit: Kit, delivery: Delivery, event: Event) -> None:
        self._kit, self._delivery, self._event = kit, delivery, event
        self._beginning: Future[Trial] | None = None
        self._counts = self._given_up = self._telling = False
        self._arrived_at = self._tried_at = time.monotonic()
        self._job_s = 0.0

    def run(self) -> None:
        """Work until the record is done, given up or set aside. Stopped, FatalError: it is still in hand."""
        if not self._avoids_its_place():
            while not self._over():
                pass

    def _avoids_its_place(self) -> bool:
        """Set a slide aside untried whose place is known to be away: to find that out again takes long."""
        wait_s = self._kit.patience.away_s(self._event)
        return wait_s > 0 and self._kit.set_aside(self._delivery, self._event, OWN, wait_s)

    def _over(self) -> bool:
        """Try once; True if the record is not in hand any more."""
        self._tried_at = time.monotonic()
        try:
            self._end_it()
        except TransientError as error:
            self._withdraw_now()
            return self._later(error)
        except JobFailedError as failed:
            return self._later(failed.reason)
        return True

    def _end_it(self) -> None:
        """Bring the record to its end. TransientError, JobFailedError: not this time."""
        try:
            with foreseen():
                self._try()
        except InvalidInputError as error:
            self._give_up(error)
        except JobFailedError as failed:
            self._counts = True
            if self._trial.number < min(self._kit.spec.max_attempts, failed.tries):
                raise
            self._give_up(failed.reason)

    def _later(self, reason: HistgenError) -> bool:
        """Set the record aside; while all wait for the same, or there is no room, stay with it (False)."""
        kit = self._kit
        took_s = time.monotonic() - self._tried_at
        delay_s = kit.patience.delay_s(self._delivery, self._event, reason, took_s)
        metrics.RETRIES.labels(kit.spec.name, reason.code).inc()
        _log.warning("The job is tried again.", exc_info=reason, delay_s=round(delay_s, 3))
        if isinstance(reason, TransientError) and reason.code != OWN:
            kit.board.lacks("job", reason)
        pause_s, all_wait = min(delay_s, kit.spec.backoff.most_s), kit.patience.concerns_all(reason)
        if all_wait:
            kit.again_in(pause_s, reason)
            if not kit.patience.had_its_turn(self._delivery):
                return False
        if kit.set_aside(self._delivery, self._event, reason.code, delay_s):
            return True
        if not all_wait:
            kit.again_in(pause_s, reason)
        return False

    def withdraw(self, limit_s: float) -> None:
        """Have an attempt that ended by no fault of the job's not count. Takes `limit_s` at most."""
        if self._counts or self._beginning is None:
            return
        if wait([self._beginning], limit_s).done and not self._beginning.exception() and self._trial.key:
            self._kit.attempts.forget([self._trial.key])

    @property
    def _trial(self) -> Trial:
        """The attempt that was begun; an empty one if that failed."""
        begun = self._beginning
        if begun is None or not begun.done() or begun.exception():
            return Trial(self._event.name, (), None)
        return begun.result()

    @property
    def _foreign(self) -> bool:
        """Whether an earlier version may have given it up by another name, under which it has no attempts."""
        return not self._event.is_ours

    def _try(self) -> None:
        found = self._begin()
        if found is not None:
            return self._finish(found, "found")
        if (self._trial.earlier or self._foreign) and (letter := self._kit.read_letter(self._event)):
            return self._reject(letter)
        if self._trial.key is None:  # the worker died with it the last time, or the reason would be known
            return self._give_up(DIED)
        began_at, number = time.monotonic(), self._trial.number
        self._kit.board.begin_attempt(number)
        outcome = self._kit.runner.handle(self._event, number)
        self._job_s = time.monotonic() - began_at
        return self._finish(outcome, "done")

    def _begin(self) -> Outcome | None:
        """Count the attempt, and meanwhile look for finished objects; a look that crashes counts too."""
        kit, self._counts, self._telling = self._kit, False, False
        self._beginning = in_background(partial(kit.attempts.begin, self._event.name, kit.spec.max_attempts))
        try:
            with foreseen():
                found = kit.runner.find(self._event)
        except (TransientError, InvalidInputError, JobFailedError) as failure:
            trial = kit.pulse.until(self._beginning)
            if trial.key or not isinstance(failure, JobFailedError):
                raise
            return None
        kit.pulse.until(self._beginning)
        return found

    def _finish(self, outcome: Outcome, how: str) -> None:
        contested = bool(self._trial.earlier) or self._foreign or self._kit.pulse.lost or self._given_up
        if contested:
            self._kit.remove_letter(self._event)
        self._telling = True
        try:
            for event in outcome.events:
                self._kit.publish(event)
        except InvalidInputError as unfit:
            return self._reject(self._written(unfit))
        self._telling = False
        ours = self._kit.commit(self._delivery)
        if not ours and not contested:
            self._kit.remove_letter(self._event)
        self._kit.attempts.forget(self._trial.keys)
        self._kit.board.has("job")
        if how == "done":
            self._kit.patience.got_through(self._event)
            self._kit.measure(outcome, time.monotonic() - self._arrived_at - self._job_s)
        return self._end(how if ours else "lost", outcome)

    def _give_up(self, reason: HistgenError) -> None:
        """Write the letter, then look for objects after all; not if they are there and cannot be told of."""
        letter = self._written(reason)
        found = None if self._telling else self._look_again()
        return self._reject(letter) if found is None else self._finish(found, "found")

    def _written(self, reason: HistgenError) -> DeadLetter:
        name, attempts = self._kit.spec.name, self._trial.number
        letter = DeadLetter.of_event(self._event, reason, attempts=attempts, worker=name)
        self._counts = self._given_up = True  # from here on the attempt says that there is a letter
        return self._kit.write_letter(letter)

    def _look_again(self) -> Outcome | None:
        try:
            return self._kit.runner.find(self._event)
        except (JobFailedError, InvalidInputError):
            return None

    def _reject(self, letter: DeadLetter) -> None:
        self._counts = True
        ours = self._kit.reject(self._delivery, letter)
        self._kit.attempts.forget(key for key in self._trial.keys if not key.endswith("/1"))
        self._end("dead-letter" if ours else "lost", code=letter.code)

    def _withdraw_now(self) -> None:
        self.withdraw(0.0)
        with suppress(TransientError):  # else it is tried again before the next attempt begins
            self._kit.pulse.until(in_background(partial(self._kit.attempts.sweep, self._event.name)))

    def _end(self, how: str, outcome: Outcome | None = None, code: str = "") -> None:
        seconds, attempt = time.monotonic() - self._arrived_at, self._trial.number
        self._kit.count(how, seconds)
        self._kit.trace(self._event, outcome or Outcome(), how, seconds, attempt=attempt, code=code)
