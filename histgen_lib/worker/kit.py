"""What a worker does its jobs with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from histgen_lib.bus import Delivery, Publisher, Reason, Subscription
from histgen_lib.catalogue.dead_letter import DeadLetter, keep_letter, letter_of
from histgen_lib.errors import HistgenError, InvalidInputError
from histgen_lib.events import REPORT_DRAFTED, Event
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.pulse import Pulse
from histgen_lib.storage import ObjectStore
from histgen_lib.telemetry import add_measures, get_logger, metrics, tell_span
from histgen_lib.worker.attempts import Attempts
from histgen_lib.worker.handler import Outcome
from histgen_lib.worker.patience import Patience
from histgen_lib.worker.runner import Runner
from histgen_lib.worker.spec import WorkerSpec

_log = get_logger()
_MISPLACED = InvalidInputError(
    "event-misplaced",
    "An event lies on a topic that is for events of another type.",
    hint="Publish it on the topic that is called as its type.",
)


@dataclass(frozen=True)
class Kit:
    """The parts, and the steps that all records need; each is repeated until its server is there."""

    spec: WorkerSpec
    subscription: Subscription
    publisher: Publisher
    store: ObjectStore
    attempts: Attempts
    runner: Runner
    pulse: Pulse
    board: Board
    patience: Patience

    def publish(self, event: Event) -> None:
        """Return once `event` is durable on its topic."""
        send = partial(self.publisher.publish, event.type, event.key, event)
        self.pulse.insist("broker", send, background=True)

    def commit(self, delivery: Delivery) -> bool:
        """Say that the record is done; False if it was another member's by then."""
        return self.pulse.insist("broker", lambda: self.subscription.done(delivery))

    def write_letter(self, letter: DeadLetter) -> DeadLetter:
        """Give up in writing; a letter of this event that is there already stays. Return the one there is."""
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
        """Have other records pass this one for `delay_s`; False if no more may be set aside."""
        defer = partial(self.subscription.defer, delivery, delay_s)
        done = self.pulse.insist("broker", defer)
        if done and not self.pulse.lost:
            self.patience.set_aside(delivery, event, code, delay_s)
        return done

    def again_in(self, delay_s: float, reason: HistgenError) -> None:
        """Let some time pass before the job is tried again."""
        self.board.wait_for(reason.code)
        self.pulse.pause(delay_s)
        self.board.phase = "working"

    def reject(self, delivery: Delivery, letter: DeadLetter) -> bool:
        """Give up in public; False if the record was another member's by then."""
        told = letter.announcement(source=self.spec.source, now=self.board.now())
        reason = Reason(letter.code, told)
        return self.pulse.insist("broker", lambda: self.subscription.reject(delivery, reason))

    def refuse(self, delivery: Delivery) -> None:
        """Give up a record that is no event of ours, or not one of this topic's."""
        name = self.spec.name
        if delivery.event:
            letter = DeadLetter.of_event(delivery.event, _MISPLACED, attempts=0, worker=name)
        else:
            letter = DeadLetter.of_record(delivery, delivery.unreadable or _MISPLACED, worker=name)
        letter = self.write_letter(letter)
        self.count("dead-letter" if self.reject(delivery, letter) else "lost")

    def measure(self, outcome: Outcome, overhead_s: float) -> None:
        """Count what a job did, once it is committed."""
        name = self.spec.name
        add_measures(outcome.measures, worker=name)
        metrics.OVERHEAD.labels(name).observe(overhead_s)
        if any(event.type == REPORT_DRAFTED for event in outcome.events):
            metrics.SCAN_TO_DRAFT.labels(name).observe(self.board.flight_s())

    def count(self, how: str, seconds: float = 0.0) -> None:
        """Count a record that was worked on."""
        metrics.JOBS.labels(self.spec.name, how).inc()
        self.board.finished += how != "handed-back"
        _log.info("The record is finished.", outcome=how, seconds=round(seconds, 3))

    def trace(
        self, event: Event, outcome: Outcome, how: str, seconds: float, *, attempt: int, code: str
    ) -> None:
        """Tell the span of an event that was worked on and is over now."""
        now = self.board.now().timestamp()
        tell_span(
            "process",
            event.type,
            traceparent=outcome.events[0].traceparent if outcome.events else "",
            parent=event.traceparent,
            began_at=now - seconds,
            ended_at=now,
            facts={
                "slide_id": event.key,
                "event_id": event.name,
                "outcome": how,
                "attempt": attempt,
                **{name.replace(":", "."): amount for name, amount in outcome.measures.items()},
            },
            code=code,
        )
