"""Waiting without falling silent: backoff, calls in the background, and the pulse of a waiting thread.

Work on slides waits for servers, files and records. Meanwhile its thread must show that it is alive, remain a
member of its consumer group, and notice a stop.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from histgen_lib.errors import TransientError
from histgen_lib.runtime.stopping import Stop, Stopped
from histgen_lib.telemetry import get_logger, metrics

if TYPE_CHECKING:
    from histgen_lib.bus import Delivery, Subscription
    from histgen_lib.runtime.board import Board

T = TypeVar("T")

GRACE_S = 20.0
"""How long work in hand may go on after a stop, unless the settings say otherwise."""
STEP_S, CALM_STEP_S = 0.2, 5.0
"""The longest wait between two beats: as a member of a group, and otherwise."""
LAG_S, CALM_LAG_S = 5.0, 20.0
"""How often the broker is asked how many records wait: during work, and between records."""

_LEAST_POLL_S, _MOST_POLL_S = 0.25, 2.0

_log = get_logger()


@dataclass(frozen=True)
class Backoff:
    """Delays that double from `first_s` to `most_s`, each shortened at random by up to half.

    The random part keeps a lab's workers from all returning to a server at the same moment.
    """

    first_s: float = 0.5
    most_s: float = 30.0

    def delays(self, chance: Callable[[], float] = random.random) -> Iterator[float]:
        """Yield seconds, without end."""
        for tries in count():
            yield min(self.most_s, self.first_s * 2.0 ** min(tries, 32)) * (1 - chance() / 2)

    def retry(self, step: Callable[[], T], outage: Callable[[TransientError, float], None]) -> T:
        """Do `step` until it succeeds; after each TransientError call `outage` with it and the delay (s).

        `outage` does the waiting, and may raise to end it.
        """
        for delay_s in self.delays():
            try:
                return step()
            except TransientError as error:
                outage(error, delay_s)
        raise AssertionError("delays never end")


def in_background(call: Callable[[], T]) -> Future[T]:
    """Run `call` in a thread of its own, which does not keep the process from exiting; nothing cancels it."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Pulse:
    """The pulse of one thread, which beats while the thread waits.

    `loop`: the name of the thread's loop on the board, "" for the main one. `broker`: the broker's name on
    the board. `grace_s`: how long after a stop work in hand may go on. `clock`: monotonic seconds.

    `subscription`: the membership to keep, if any. `holding`: work is in hand. `lost`: another member may
    have the record in hand by now.
    """

    def __init__(
        self,
        board: Board,
        stop: Stop,
        *,
        grace_s: float = GRACE_S,
        backoff: Backoff | None = None,
        loop: str = "",
        broker: str = "broker",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board, self._stop, self._grace_s, self._backoff = board, stop, grace_s, backoff or Backoff()
        self._loop, self._broker, self._clock = loop, broker, clock
        self.subscription: Subscription | None = None
        self.holding = self.lost = False
        self._kept_at = self._lag_at = float("-inf")
        self._worked_at = clock()
        self._broker_away, self._waiting_partitions = False, ""
        self._away: dict[str, str] = {}
        board.turn(loop)

    def take(self) -> None:
        """Note that work is in hand: a stop grants it the grace period."""
        self.holding, self.lost = True, False

    def drop(self) -> None:
        """Note that no work is in hand."""
        if self.holding:
            self._worked_at = self._clock()
        self.holding = self.lost = False

    def beat(self) -> None:
        """Show that the thread is alive and keep its membership. Raises Stopped when it must leave now."""
        self._board.turn(self._loop)
        self._board.stopping = self._stop.requested
        now = self._clock()
        if self.subscription and now - self._kept_at >= STEP_S:
            self._kept_at = now
            self._keep(self.subscription, now)
        if self._stop.over(self._grace_s if self.holding else 0.0):
            raise Stopped

    def next(self, subscription: Subscription) -> Delivery | None:
        """Wait a while for the next record; the longer ago the last one was, the longer.

        A stop is noticed only between two such waits. Shows how many records wait, and partitions that the
        broker hands out nothing of while others go on.
        """
        idle_s = self._clock() - self._worked_at
        delivery = subscription.next(min(_MOST_POLL_S, max(_LEAST_POLL_S, idle_s / 10)))
        self._kept_at = self._clock()
        self._show_waiting_partitions(subscription)
        self._show_lag(subscription, self._kept_at, CALM_LAG_S)
        return delivery

    def until(self, future: Future[T]) -> T:
        """Beat until `future` is done; return its result or raise its exception."""
        while not wait([future], STEP_S).done:
            self.beat()
        return future.result()

    def pause(self, seconds: float, *, patient: bool = False) -> None:
        """Beat for `seconds`. Raises Stopped at once on a stop; if `patient`, only after the grace period."""
        end = self._clock() + seconds
        while True:
            self.beat()
            if self._stop.requested and not patient:
                raise Stopped
            left = end - self._clock()
            if left <= 0:
                return
            if self._stop.requested:
                time.sleep(min(STEP_S, left))
            else:
                self._stop.wait(min(STEP_S if self.subscription else CALM_STEP_S, left))

    def insist(
        self, what: str, step: Callable[[], T], *, patient: bool = True, background: bool = False
    ) -> T:
        """Do `step` until it succeeds, with pauses while it raises TransientError: then `what` is missing.

        `patient`: as in `pause`. `background`: the step may block, so it runs in another thread.
        """
        result = self._backoff.retry(
            (lambda: self.until(in_background(step))) if background else step,
            lambda error, delay_s: self.outage(what, error, delay_s, patient=patient),
        )
        self.recovered(what)
        return result

    def outage(self, what: str, error: TransientError, delay_s: float, *, patient: bool = False) -> None:
        """Show and count that `what` is missing, log it if that is news, and pause."""
        self._board.lacks(what, error)
        metrics.RETRIES.labels(self._board.worker, error.code).inc()
        if self._away.get(what) != error.code:
            self._away[what] = error.code
            _log.warning("A server is not available; trying again.", exc_info=error, stage=what)
        self.pause(delay_s, patient=patient)

    def recovered(self, what: str) -> None:
        """Show that `what` is available."""
        self._away.pop(what, None)
        self._board.has(what)

    def _keep(self, subscription: Subscription, now: float) -> None:
        try:
            if not subscription.keep() and self.holding and not self.lost:
                self.lost = True
                _log.warning("Another member may have the record by now; its job continues.")
        except TransientError as error:
            self._show_broker(error)
        else:
            self._show_lag(subscription, now, LAG_S)

    def _show_lag(self, subscription: Subscription, now: float, every_s: float) -> None:
        if now - self._lag_at < every_s:
            return
        self._lag_at = now
        try:
            metrics.BUS_LAG.labels(self._board.worker).set(subscription.lag())
            self._show_broker(None)
        except TransientError as error:
            self._show_broker(error)

    def _show_broker(self, error: TransientError | None) -> None:
        """Show whether the broker answers a beat; what `insist` found missing, it finds again itself."""
        if error:
            self._board.lacks(self._broker, error)
        elif self._broker_away:
            self._board.has(self._broker)
        self._broker_away = error is not None

    def _show_waiting_partitions(self, subscription: Subscription) -> None:
        trouble = subscription.trouble()
        if trouble is None:
            self._board.has("records")
        elif trouble.message != self._waiting_partitions:
            self._board.lacks("records", trouble)
            _log.warning("Records wait on the broker.", exc_info=trouble)
        self._waiting_partitions = trouble.message if trouble else ""
