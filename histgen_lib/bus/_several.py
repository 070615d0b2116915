"""One subscription made of several, one a topic: a worker that takes events of more than one type."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from histgen_lib.bus._port import Delivery, Reason, Subscription
from histgen_lib.errors import TransientError

_WAIT_S = 0.5
"""How long to wait at one topic while there may be something on another."""


class SeveralSubscription:
    """A `Subscription` to several topics, each by a subscription of its own; one record in flight in all.

    The order within a key holds within each topic, and not between topics. A record that is set aside lets
    records of the other topics pass, whatever their keys.
    """

    def __init__(self, by_topic: Mapping[str, Subscription]) -> None:
        self._by_topic = dict(by_topic)
        self._turns = deque(self._by_topic.values())
        self._in_flight: Delivery | None = None

    def next(self, timeout_s: float) -> Delivery | None:
        """See `Subscription.next`: looks at every topic first, then waits at each in turn.

        The topic after the one that was asked last comes first, so that none starves, and none whose broker
        fails keeps the others from their turn.
        """
        if self._in_flight is not None:
            raise ValueError(f"{self._in_flight.position} is still in flight")
        end, topics, wait_s = time.monotonic() + timeout_s, len(self._turns), 0.0
        while not self._look(wait_s):
            left_s = end - time.monotonic()
            if left_s <= 0:
                return None
            wait_s = min(_WAIT_S, left_s / topics)
        return self._in_flight

    def keep(self) -> bool:
        """See `Subscription.keep`."""
        kept, trouble = {}, None
        for topic, one in self._by_topic.items():
            try:
                kept[topic] = one.keep()
            except TransientError as error:
                trouble = error
        if trouble is not None:
            raise trouble
        return self._in_flight is None or kept[self._in_flight.topic]

    def done(self, delivery: Delivery) -> bool:
        """See `Subscription.done`."""
        done = self._of(delivery).done(delivery)
        self._landed(delivery)
        return done

    def reject(self, delivery: Delivery, reason: Reason) -> bool:
        """See `Subscription.reject`."""
        done = self._of(delivery).reject(delivery, reason)
        self._landed(delivery)
        return done

    def release(self, delivery: Delivery) -> None:
        """See `Subscription.release`."""
        self._of(delivery).release(delivery)
        self._landed(delivery)

    def defer(self, delivery: Delivery, wait_s: float) -> bool:
        """See `Subscription.defer`."""
        aside = self._of(delivery).defer(delivery, wait_s)
        if aside:
            self._landed(delivery)
        return aside

    def lag(self) -> int:
        """See `Subscription.lag`: of all topics together."""
        return sum(one.lag() for one in self._by_topic.values())

    def trouble(self) -> TransientError | None:
        """See `Subscription.trouble`."""
        return next((found for one in self._by_topic.values() if (found := one.trouble())), None)

    def close(self) -> None:
        """See `Subscription.close`."""
        trouble: TransientError | None = None
        for one in self._by_topic.values():
            try:
                one.close()
            except TransientError as error:
                trouble = error
        if trouble is not None:
            raise trouble

    def _look(self, wait_s: float) -> bool:
        """Wait at each topic for so long; return whether there was a record."""
        for _ in range(len(self._turns)):
            self._turns.rotate(-1)
            self._in_flight = self._turns[-1].next(wait_s)
            if self._in_flight is not None:
                return True
        return False

    def _of(self, delivery: Delivery) -> Subscription:
        return self._by_topic[delivery.topic]

    def _landed(self, delivery: Delivery) -> None:
        if self._in_flight == delivery:
            self._in_flight = None
