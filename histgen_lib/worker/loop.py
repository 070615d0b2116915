"""The poll loop: take a record, have it worked on, and again; between records, housekeeping."""

from __future__ import annotations

from concurrent.futures import Future, wait

from histgen_lib.bus import Delivery
from histgen_lib.errors import TransientError
from histgen_lib.runtime.loops import StoreProbe
from histgen_lib.runtime.pulse import in_background
from histgen_lib.runtime.stopping import Stop, Stopped
from histgen_lib.telemetry import bound, get_logger
from histgen_lib.worker.job import Job
from histgen_lib.worker.kit import Kit

PROBE_S, PROBE_KEY = 10.0, "probe"
"""How often an idle worker looks whether the store is there, and at what: there need be no such object."""
HAND_BACK_S = 5.0
"""What handing back may take beyond the grace period, where a server does not answer."""

_log = get_logger()


class Loop:
    """Takes records one at a time until it is stopped."""

    def __init__(self, kit: Kit, stop: Stop) -> None:
        self._kit, self._stop = kit, stop
        self._sweeping: Future[None] | None = None
        self._probe = StoreProbe(kit.store, kit.board, key=PROBE_KEY, every_s=PROBE_S)

    def run(self) -> None:
        """Return once stopped, with nothing in hand. FatalError leaves the record in hand uncommitted."""
        kit = self._kit
        kit.board.drop()
        try:
            while not self._stop.requested:
                kit.pulse.beat()
                delivery = kit.pulse.insist("broker", self._next, patient=False)
                kit.patience.delivered(delivery.position if delivery else None)
                if delivery:
                    with bound(**_ids(delivery)):
                        self._work(delivery)
                else:
                    self._idle()
        except Stopped:
            pass
        finally:
            kit.board.stopping = True
            wait([in_background(kit.attempts.sweep)], HAND_BACK_S)

    def _next(self) -> Delivery | None:
        return self._kit.pulse.next(self._kit.subscription)

    def _work(self, delivery: Delivery) -> None:
        kit, job = self._kit, None
        kit.pulse.take()
        try:
            if self._stop.requested:
                raise Stopped
            event = delivery.event
            if event is None or event.type != kit.spec.topic:
                kit.refuse(delivery)
            else:
                kit.board.take(event)
                job = Job(kit, delivery, event)
                self._do(job)
        except Stopped:
            self._hand_back(delivery, job)
            raise
        finally:
            kit.patience.left(delivery.position)
            kit.board.drop()
            kit.pulse.drop()
        self._sweep()

    def _do(self, job: Job) -> None:
        try:
            job.run()
        except BaseException:
            self._kit.runner.abandon()
            job.withdraw(HAND_BACK_S)
            raise

    def _hand_back(self, delivery: Delivery, job: Job | None) -> None:
        """Let another member have the record, with no attempt counted."""
        if job:
            wait([in_background(self._kit.attempts.sweep)], HAND_BACK_S)
        try:
            self._kit.subscription.release(delivery)
        except TransientError:
            _log.warning("The broker is away; the record in hand comes back when this member's session ends.")
        self._kit.count("handed-back")

    def _idle(self) -> None:
        self._kit.pulse.insist("process", self._kit.runner.tend, patient=False)
        self._sweep()
        self._probe.turn()

    def _sweep(self) -> None:
        """Remove ended attempts, beside whatever comes next."""
        if self._kit.attempts.unswept and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = in_background(self._kit.attempts.sweep)


def _ids(delivery: Delivery) -> dict[str, str]:
    event = delivery.event
    if event is None:
        return {"position": delivery.position}
    return {"slide_id": event.key, "event_id": event.name, "trace_id": event.trace_id}
