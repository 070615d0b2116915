"""One event, from its arrival until it is committed: the decisions, one method each.

The order is what the guarantees rest on. An attempt is counted before the job begins; the job's objects are
durable before its events are published, these before the record is committed. An event is given up in writing
first, then in public. And a finished object wins over a letter, whoever wrote either and when: each writer
looks for the other's once its own is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial

from histgen_lib.bus import Delivery
from histgen_lib.errors import HistgenError, InvalidInputError, TransientError
from histgen_lib.events import Event
from histgen_lib.worker.attempts import Trial
from histgen_lib.worker.dead_letter import DeadLetter
from histgen_lib.worker.failures import CRASHED, JobFailedError
from histgen_lib.worker.handler import Outcome
from histgen_lib.worker.kit import Kit
from histgen_lib.worker.pulse import aside


class Job:
    """A record that is an event, in hand."""

    def __init__(self, kit: Kit, delivery: Delivery, event: Event) -> None:
        self._kit, self._delivery, self._event = kit, delivery, event
        self._beginning: Future[Trial] | None = None
        self._counts = self._given_up = False
        self._arrived_at, self._job_s = time.monotonic(), 0.0

    def run(self) -> None:
        """Work until the record is committed, done or given up. Stopped, FatalError: it is not."""
        for delay_s in self._kit.spec.backoff.delays():
            if decided := self._decide(delay_s):
                return decided()
        return None

    def _decide(self, delay_s: float) -> Callable[[], None] | None:
        """Have the job done, once; return how the record is to be finished, or after a pause None."""
        try:
            return self._try()
        except InvalidInputError as error:
            return partial(self._give_up, error)
        except TransientError as error:
            self._kit.board.lacks("job", error)
            self._withdraw_now()
            self._kit.again_in(delay_s, error)
        except JobFailedError as failed:
            self._counts = True
            if self._trial.number >= min(self._kit.spec.max_attempts, failed.tries):
                return partial(self._give_up, failed.reason)
            self._kit.again_in(delay_s, failed.reason)
        return None

    def withdraw(self, limit_s: float) -> None:
        """Have an attempt that ended by no fault of the job's not count. Takes `limit_s` at most."""
        if self._counts or self._beginning is None:
            return
        if wait([self._beginning], limit_s).done and not self._beginning.exception() and self._trial.key:
            self._kit.attempts.forget([self._trial.key])

    @property
    def _trial(self) -> Trial:
        assert self._beginning is not None
        return self._beginning.result()

    def _try(self) -> Callable[[], None]:
        found = self._begin()
        if found is not None:
            return partial(self._finish, found, "found")
        if self._trial.earlier and (letter := self._kit.read_letter(self._event.id)):
            return partial(self._reject, letter)
        if self._trial.key is None:  # the worker died with it the last time, or the reason would be known
            return partial(self._give_up, CRASHED)
        began_at, number = time.monotonic(), self._trial.number
        self._kit.board.progress(attempt=number)
        outcome = self._kit.runner.handle(self._event, number)
        self._job_s = time.monotonic() - began_at
        return partial(self._finish, outcome, "done")

    def _begin(self) -> Outcome | None:
        """Count the attempt, and meanwhile look for finished objects; a look that crashes counts too."""
        kit, self._counts = self._kit, False
        self._beginning = aside(partial(kit.attempts.begin, self._event.id, kit.spec.max_attempts))
        try:
            found = kit.runner.find(self._event)
        except (TransientError, InvalidInputError, JobFailedError) as failure:
            trial = kit.pulse.until(self._beginning)
            if trial.key or not isinstance(failure, JobFailedError):
                raise
            return None
        kit.pulse.until(self._beginning)
        return found

    def _finish(self, outcome: Outcome, how: str) -> None:
        contested = bool(self._trial.earlier) or self._kit.pulse.lost or self._given_up
        if contested:
            self._kit.remove_letter(self._event.id)
        for event in outcome.events:
            self._kit.publish(event)
        ours = self._kit.commit(self._delivery)
        if not ours and not contested:
            self._kit.remove_letter(self._event.id)
        self._kit.attempts.forget(self._trial.keys)
        self._kit.board.has("job")
        if how == "done":
            self._kit.measure(outcome, time.monotonic() - self._arrived_at - self._job_s)
        self._end(how if ours else "lost", outcome)

    def _give_up(self, reason: HistgenError) -> None:
        kit = self._kit
        letter = DeadLetter.of_event(self._event, reason, attempts=self._trial.number, worker=kit.spec.name)
        self._counts = self._given_up = True  # from here on the attempt says that there is a letter
        kit.write_letter(letter)
        found = self._look_again()
        return self._reject(letter) if found is None else self._finish(found, "found")

    def _look_again(self) -> Outcome | None:
        try:
            return self._kit.pulse.insist("store", lambda: self._kit.runner.find(self._event))
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
            self._kit.pulse.until(aside(partial(self._kit.attempts.sweep, self._event.id)))

    def _end(self, how: str, outcome: Outcome | None = None, code: str = "") -> None:
        seconds, attempt = time.monotonic() - self._arrived_at, self._trial.number
        self._kit.count(how, seconds)
        self._kit.trace(self._event, outcome or Outcome(), how, seconds, attempt=attempt, code=code)
