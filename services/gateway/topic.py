"""Bucket notifications from a topic: each is finished, or given up in writing, before the next is taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from histgen_lib.bus import Delivery, Subscription
from histgen_lib.errors import FatalError, InvalidInputError, TransientError
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.pulse import CALM_LAG_S, next_s, tell_trouble
from histgen_lib.runtime.stopping import Stop, Stopped
from histgen_lib.telemetry import get_logger, metrics
from services.gateway import noticing
from services.gateway.board import NAME
from services.gateway.intake import Intake
from services.gateway.loops import Loop

GROUP = "histgen-gateway"
MOST_ATTEMPTS = 3
"""Tries of a notification whose handling fails in a way that nobody foresaw."""

_log = get_logger()


class NotificationTopic(Loop):
    """Reads raw notifications. `subscribe` joins the group."""

    name = "notifications"

    def __init__(
        self,
        subscribe: Callable[[], Subscription],
        intake: Intake,
        board: Board,
        stop: Stop,
        **patience: Any,
    ) -> None:
        super().__init__(board, stop, **patience)
        self._subscribe, self._intake = subscribe, intake
        self._subscription: Subscription | None = None
        self._holding, self._trouble = False, ""
        self._lag_at, self._took_at = float("-inf"), time.monotonic()

    def turn(self) -> None:
        """Take the next notification, if there is one, and finish with it."""
        subscription = self._subscription = self._subscription or self._subscribe()
        self._tell_lag(subscription)
        delivery = subscription.next(next_s(self._took_at))
        self._trouble = tell_trouble(self._board, subscription, self._trouble)
        self.beat()
        if delivery:
            self._finish(subscription, delivery)
            self._took_at = time.monotonic()

    def beat(self) -> None:
        """Stay in the group, too, while a notification is worked on."""
        super().beat()
        if self._subscription and self._holding:
            try:
                self._subscription.keep()
            except TransientError as error:
                self._board.lacks(self.name, error)

    def close(self) -> None:
        """Leave the group."""
        if self._subscription:
            with suppress(TransientError):  # then the session runs out by itself
                self._subscription.close()

    def _tell_lag(self, subscription: Subscription) -> None:
        if time.monotonic() - self._lag_at >= CALM_LAG_S:
            self._lag_at = time.monotonic()
            metrics.BUS_LAG.labels(NAME).set(subscription.lag())

    def _finish(self, subscription: Subscription, delivery: Delivery) -> None:
        self._holding = True
        try:
            self._take(delivery)
            self.insist(lambda: subscription.done(delivery), here=True)
        except Stopped:
            with suppress(TransientError):
                subscription.release(delivery)
            raise
        finally:
            self._holding = False

    def _take(self, delivery: Delivery) -> None:
        """Work on it until it is done; what fails in an unforeseen way, again and again, is given up."""
        damaged = delivery.unreadable
        if damaged and damaged.code == "record-damaged":
            self._give_up(delivery, damaged)
            return
        for attempt in range(1, MOST_ATTEMPTS + 1):
            try:
                self.insist(partial(noticing.take, self._intake, delivery.raw, delivery.position))
                return
            except (Stopped, FatalError):
                raise
            except Exception as error:
                _log.error("A notification could not be handled.", exc_info=error, attempt=attempt)
        self._give_up(delivery, _FAILED)

    def _give_up(self, delivery: Delivery, reason: InvalidInputError) -> None:
        letter = noticing.letter(delivery.position, delivery.raw, reason)
        self.insist(partial(self._intake.give_up, letter))


_FAILED = InvalidInputError(
    "notification-failed",
    "A bucket notification could not be handled, in a way that nobody had foreseen.",
    hint="Please report it, with the gateway's log. `histgen backfill` takes in the slides it told of.",
)
