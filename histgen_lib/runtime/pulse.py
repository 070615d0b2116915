"""What must go on while a worker waits, for whatever: membership, liveness, and noticing the stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from histgen_lib.bus import Subscription
from histgen_lib.errors import TransientError
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.stopping import Stop, Stopped
from histgen_lib.telemetry import get_logger, metrics
from histgen_lib.worker.spec import WorkerSpec

T = TypeVar("T")
STEP_S = 0.2
"""The longest wait between two beats."""
LAG_S, CALM_LAG_S = 5.0, 20.0
"""How often the broker is asked how many records wait: at work, and between records."""

_LEAST_NEXT_S, _MOST_NEXT_S = 0.25, 2.0

_log = get_logger()


def next_s(since: float) -> float:
    """Return how long to wait for a record at a time: the longer, the longer ago (monotonic) the last was.

    A stop is noticed only between two such waits.
    """
    return min(_MOST_NEXT_S, max(_LEAST_NEXT_S, (time.monotonic() - since) / 10))


def aside(call: Callable[[], T]) -> Future[T]:
    """Run `call` in a thread of its own, which no one has to wait for at the end."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def tell_trouble(board: Board, subscription: Subscription, before: str) -> str:
    """Show partitions that wait while others go on; log when there are more or others of them.

    `before`: what this returned the last time, "" at first.
    """
    trouble = subscription.trouble()
    if trouble is None:
        board.has("records")
        return ""
    if trouble.message != before:
        board.lacks("records", trouble)
        _log.warning("Records wait on the broker.", exc_info=trouble)
    return trouble.message


class Pulse:
    """Beats. `holding`: a record is in hand; `lost`: another member may have it by now."""

    def __init__(self, spec: WorkerSpec, board: Board, stop: Stop) -> None:
        self._spec, self._board, self._stop = spec, board, stop
        self.subscription: Subscription | None = None
        self.holding = self.lost = False
        self._beat_at = self._lag_at = 0.0
        self._trouble = ""

    def take(self) -> None:
        """Note that a record is in hand."""
        self.holding, self.lost = True, False

    def drop(self) -> None:
        """Note that none is."""
        self.holding = self.lost = False

    def beat(self) -> None:
        """Stay a member, show that the loop turns; Stopped once the time for what is in hand is over."""
        self._board.turn()
        self._board.stopping = self._stop.requested
        now = time.monotonic()
        if self.subscription and now - self._beat_at >= STEP_S:
            self._beat_at = now
            self._keep(self.subscription, now)
        if self._stop.over(self._spec.grace_s if self.holding else 0.0):
            raise Stopped

    def polled(self) -> None:
        """Note that the broker was just asked for a record, which keeps up the membership, too."""
        self._beat_at = time.monotonic()
        if self.subscription:
            self._trouble = tell_trouble(self._board, self.subscription, self._trouble)
            self._tell_lag(self.subscription, self._beat_at, CALM_LAG_S)

    def until(self, future: Future[T]) -> T:
        """Beat until `future` is there; return or raise what it holds."""
        while not wait([future], STEP_S).done:
            self.beat()
        return future.result()

    def pause(self, seconds: float, *, patient: bool = False) -> None:
        """Beat for `seconds`. A stop ends it with Stopped, or if `patient` the end of the grace period."""
        end = time.monotonic() + seconds
        while True:
            self.beat()
            if self._stop.requested and not patient:
                raise Stopped
            left = end - time.monotonic()
            if left <= 0:
                return
            if self._stop.requested:
                time.sleep(min(STEP_S, left))
            else:
                self._stop.wait(min(STEP_S, left))

    def insist(self, what: str, step: Callable[[], T], *, patient: bool = True) -> T:
        """Do `step`, and again after a pause while it raises TransientError: then `what` is away."""
        for delay_s in self._spec.backoff.delays():
            try:
                done = step()
            except TransientError as error:
                self._board.lacks(what, error)
                metrics.RETRIES.labels(self._spec.name, error.code).inc()
                _log.warning("A server is away; trying again.", exc_info=error, delay_s=round(delay_s, 3))
                self.pause(delay_s, patient=patient)
            else:
                self._board.has(what)
                return done
        raise AssertionError("delays never end")

    def store(self, step: Callable[[], T]) -> T:
        """Insist on a step that may block: it runs aside."""
        return self.insist("store", lambda: self.until(aside(step)))

    def _keep(self, subscription: Subscription, now: float) -> None:
        try:
            if not subscription.keep() and self.holding and not self.lost:
                self.lost = True
                _log.warning("The record in hand may have gone to another member; its job goes on.")
        except TransientError as error:
            self._board.lacks("broker", error)
        else:
            self._tell_lag(subscription, now)

    def _tell_lag(self, subscription: Subscription, now: float, every_s: float = LAG_S) -> None:
        if now - self._lag_at < every_s:
            return
        self._lag_at = now
        try:
            metrics.BUS_LAG.labels(self._spec.name).set(subscription.lag())
            self._board.has("broker")
        except TransientError as error:
            self._board.lacks("broker", error)
