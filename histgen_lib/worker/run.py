"""Puts a worker together, runs its poll loop until it is stopped, and takes it apart."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, nullcontext, suppress

from histgen_lib.bus import BusSettings, Delivery, Subscription, open_publisher, open_subscriptions
from histgen_lib.errors import TransientError
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.loops import StoreProbe
from histgen_lib.runtime.pulse import Pulse, in_background
from histgen_lib.runtime.service import exit_code
from histgen_lib.runtime.stopping import Stop, Stopped, stopped_by_signals
from histgen_lib.runtime.web.server import health_app, opened
from histgen_lib.storage import StorageSettings, open_store
from histgen_lib.telemetry import bound, get_logger
from histgen_lib.worker.attempts import Attempts
from histgen_lib.worker.handler import WorkerSpec
from histgen_lib.worker.retries import Retries
from histgen_lib.worker.runner import JobProcess, Runner
from histgen_lib.worker.task import Task, Worker

PROBE_S, PROBE_KEY = 10.0, "probe"
"""How often an idle worker looks whether the store answers, and at which key; no such object is needed."""
HAND_BACK_S = 5.0
"""How long handing back may take beyond the grace period if a server does not answer."""

_log = get_logger()


def run_worker(
    spec: WorkerSpec, *, bus: BusSettings, storage: StorageSettings, stop: Stop | None = None
) -> int:
    """Work on the events of its topics until SIGTERM or SIGINT; return the process's exit code.

    0: stopped; the record in hand is finished or handed back. Otherwise the record in hand is uncommitted,
    and a restarted worker continues there: a FatalError's own code, or 70 for a fault of the worker's own.
    Call it in the main thread; elsewhere pass a `stop`, as signals are not received there.
    """
    signals = nullcontext(stop) if stop else stopped_by_signals(Stop())
    with bound(worker=spec.name), signals as stopping:
        return exit_code(lambda: _run(spec, bus, storage, stopping))


def _run(spec: WorkerSpec, bus: BusSettings, storage: StorageSettings, stop: Stop) -> None:
    board = Board(spec.name, letters=spec.letters, retries=spec.retries, stages=spec.stages)
    with ExitStack() as open_things:
        pages = health_app(board, spec.config)
        url = open_things.enter_context(opened(pages, spec.name, spec.address))
        _log.info(
            "The worker starts.", topic=", ".join(spec.groups), group=", ".join(spec.groups.values()), url=url
        )
        pulse = Pulse(board, stop, grace_s=spec.grace_s, backoff=spec.backoff)
        worker = open_things.enter_context(_opened(spec, bus, storage, board, pulse))
        _log.info("The worker is ready.")
        PollLoop(worker, stop).run()
    _log.info("The worker has stopped.")


@contextmanager
def _opened(
    spec: WorkerSpec, bus: BusSettings, storage: StorageSettings, board: Board, pulse: Pulse
) -> Iterator[Worker]:
    """Open everything; join the group last, once a child process is ready."""
    process = JobProcess(spec.make_handler, spec.name)
    runner = Runner(spec, process, board, pulse)
    with ExitStack() as open_things:
        open_things.callback(process.close)
        runner.start()
        store = pulse.insist("store", lambda: open_store(storage), patient=False)
        publisher = pulse.insist("opening", lambda: open_publisher(bus), patient=False)
        open_things.callback(publisher.close)
        pulse.insist("process", runner.warm, patient=False)
        subscription = pulse.insist("opening", lambda: open_subscriptions(bus, spec.groups), patient=False)
        open_things.callback(_leave, subscription, pulse)
        pulse.subscription = subscription
        attempts = Attempts(store, spec.name)
        retries = Retries(spec.backoff, board)
        yield Worker(spec, subscription, publisher, store, attempts, runner, pulse, board, retries)


def _leave(subscription: Subscription, pulse: Pulse) -> None:
    pulse.subscription = None
    with suppress(TransientError):  # then the session runs out by itself
        subscription.close()


class PollLoop:
    """Takes records one at a time until it is stopped; does housekeeping between them."""

    def __init__(self, worker: Worker, stop: Stop) -> None:
        self._worker, self._stop = worker, stop
        self._sweeping: Future[None] | None = None
        self._probe = StoreProbe(worker.store, worker.board, key=PROBE_KEY, every_s=PROBE_S)

    def run(self) -> None:
        """Return once stopped, with nothing in hand. FatalError leaves the record in hand uncommitted."""
        worker = self._worker
        worker.board.drop()
        try:
            while not self._stop.requested:
                worker.pulse.beat()
                delivery = worker.pulse.insist("broker", self._next, patient=False)
                worker.retries.delivered(delivery.position if delivery else None)
                if delivery:
                    with bound(**_ids(delivery)):
                        self._work(delivery)
                else:
                    self._idle()
        except Stopped:
            pass
        finally:
            worker.board.stopping = True
            wait([in_background(worker.attempts.sweep)], HAND_BACK_S)

    def _next(self) -> Delivery | None:
        return self._worker.pulse.next(self._worker.subscription)

    def _work(self, delivery: Delivery) -> None:
        worker, task = self._worker, None
        worker.pulse.take()
        try:
            if self._stop.requested:
                raise Stopped
            event = delivery.event
            if event is None or event.type != delivery.topic:
                worker.refuse(delivery)
            else:
                worker.board.take(event)
                task = Task(worker, delivery, event)
                self._do(task)
        except Stopped:
            self._hand_back(delivery, task)
            raise
        finally:
            worker.retries.left(delivery.position)
            worker.board.drop()
            worker.pulse.drop()
        self._sweep()

    def _do(self, task: Task) -> None:
        try:
            task.run()
        except BaseException:
            self._worker.runner.abandon()
            task.withdraw(HAND_BACK_S)
            raise

    def _hand_back(self, delivery: Delivery, task: Task | None) -> None:
        """Let another member have the record, with no attempt counted."""
        if task:
            wait([in_background(self._worker.attempts.sweep)], HAND_BACK_S)
        try:
            self._worker.subscription.release(delivery)
        except TransientError:
            _log.warning("The broker is unavailable; the record comes back when this member's session ends.")
        self._worker.count("handed-back")

    def _idle(self) -> None:
        self._worker.pulse.insist("process", self._worker.runner.tend, patient=False)
        self._sweep()
        self._probe.turn()

    def _sweep(self) -> None:
        """Remove ended attempts in the background."""
        if self._worker.attempts.unswept and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = in_background(self._worker.attempts.sweep)


def _ids(delivery: Delivery) -> dict[str, str]:
    event = delivery.event
    if event is None:
        return {"position": delivery.position}
    return {"slide_id": event.key, "event_id": event.name, "trace_id": event.trace_id}
