"""Subscription to Apache Kafka by kafka-python: at least once, one record in flight a member.

A job takes minutes, so a member that works pauses its partitions and polls only for changes in the group.
Records that were read but not finished stay in memory (`Aside`): the client's position runs ahead of what is
committed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from math import ceil
from typing import Any

import kafka
from kafka import errors as kafka_errors
from kafka.structs import MemberState

from histgen_lib.bus._aside import Aside
from histgen_lib.bus._kafka_client import ANSWER_S, KafkaPublisher, talking
from histgen_lib.bus._kafka_damage import read
from histgen_lib.bus._kafka_holes import Holes
from histgen_lib.bus._kafka_joining import FETCH_S, START, join, leave, mark_starts, pace
from histgen_lib.bus._port import BusSettings, Delivery, Reason
from histgen_lib.bus._sharing import Holding
from histgen_lib.errors import HistgenError, TransientError
from histgen_lib.events import DEAD_LETTER

_SILENCE_S, _CALM_SILENCE_S = 2.0, 10.0
"""After so long without hearing from the broker we ask it for a sign of life; the second for a member at
rest."""
_REST_S = 10.0
"""A member that has had no record for so long is at rest."""
_PATIENCE_S = 5.0
"""A member that works asks in passing; only after so long does it take a late answer for an absent broker."""
_TURN_S = 0.5
"""How often a member that works attends to its group."""
_CATCH_MS, _REBALANCE_S, _STUCK_S = 20, 1.0, 20.0
"""kafka-python 3.0.12 notices the end of a rebalance only within a call of `poll`; one that ends between two
calls it starts again or (if a change of the topic began it) forgets. So we call `poll` again and again until
the group has settled. An end that is due comes within the first of these times, a whole rebalance mostly
within the second; after the third the client must have forgotten it, and is replaced."""
_STALL_S, _STALLS = 10.0, 5
"""kafka-python 3.0.12 can put records of a paused partition aside and never return to them. A member that got
nothing for so long checks whether there are records; after so many such checks its client is replaced."""
_GIVE_UP_S = 60.0
"""After so long a failing client is replaced."""
_MARK_MS = 300
"""How long the broker may take for what is only done so that others see our lag."""


class KafkaSubscription:
    """A `Subscription` to a Kafka topic."""

    def __init__(self, settings: BusSettings, servers: list[str], topic: str, group: str) -> None:
        self._settings, self._servers, self._topic, self._group = settings, servers, topic, group
        self._letters = KafkaPublisher(settings, servers)
        self._consumer: Any = None
        self._holes: Holes | None = None
        self._in_flight: Delivery | None = None
        self._aside = Aside()
        self._unmarked: set[Any] = set()
        self._lost = self._evicted = False
        self._topic_id: Any = None
        self._stalls = 0
        self._heard_at = self._turned_at = self._failing_since = self._unsettled_since = 0.0
        self._got_at = self._taken_at = time.monotonic()

    def next(self, timeout_s: float) -> Delivery | None:
        """See `Subscription.next`."""
        if self._in_flight is not None:
            raise ValueError(f"{self._in_flight.position} is still in flight")
        end = time.monotonic() + timeout_s
        with self._consuming() as consumer:
            pace(consumer, self._settings, at_rest=self._at_rest)
            if not self._lend_due():
                self._read_on(end)
            self._mark_starts()
        return self._in_flight

    def keep(self) -> bool:
        """See `Subscription.keep`."""
        if time.monotonic() - self._turned_at < _TURN_S:
            return not self._lost
        with self._consuming():
            self._turn(_CATCH_MS)
            if self._in_flight is None:  # a record of another topic is
                self._got_at = time.monotonic()
            self._settle(_REBALANCE_S)
            self._mark_starts()
            self._listen_for_broker(patience_s=0.3, tolerated_s=_PATIENCE_S)
        return not self._lost

    def done(self, delivery: Delivery) -> bool:
        """See `Subscription.done`."""
        if self._in_flight != delivery:
            return False
        with self._consuming():
            committed = self._commit(delivery)
        self._forget()
        return committed

    def reject(self, delivery: Delivery, reason: Reason) -> bool:
        """See `Subscription.reject`."""
        self._letters.publish(DEAD_LETTER, reason.letter.key, reason.letter)
        return self.done(delivery)

    def release(self, delivery: Delivery) -> None:
        """See `Subscription.release`."""
        if self._in_flight == delivery:
            if not self._lost:
                self._aside.release(delivery)
            self._forget()

    def defer(self, delivery: Delivery, wait_s: float) -> bool:
        """See `Subscription.defer`."""
        if self._in_flight == delivery:
            if not self._lost:
                if not self._aside.has_room():
                    return False
                self._aside.defer(delivery, time.monotonic() + wait_s)
            self._forget()
        return True

    def lag(self) -> int:
        """See `Subscription.lag`."""
        with self._consuming() as consumer:
            return self._count(consumer.assignment(), self._floor)

    def trouble(self) -> TransientError | None:
        """See `Subscription.trouble`."""
        return self._holes.trouble() if self._holes and self._consumer else None

    def close(self) -> None:
        """See `Subscription.close`."""
        self._drop()
        self._letters.close()

    @contextlib.contextmanager
    def _consuming(self) -> Iterator[Any]:
        """Lend the consumer, making one if necessary; drop one that has failed for long."""
        try:
            if self._consumer is None:
                self._consumer = self._join()
            with talking():
                yield self._consumer
        except HistgenError:
            now = time.monotonic()
            self._failing_since = self._failing_since or now
            if now - self._failing_since > _GIVE_UP_S:
                self._drop()
            raise
        self._failing_since = 0.0

    def _join(self) -> Any:
        consumer = join(
            self._settings,
            self._servers,
            self._topic,
            self._group,
            holding=self._holding,
            came=self._came,
            went=self._went,
        )
        self._topic_id, self._holes = consumer._cluster.topic_id(self._topic), Holes(consumer)
        self._heard_at = time.monotonic()
        return consumer

    def _holes_here(self) -> Holes:
        assert self._holes is not None, "there is no consumer"
        return self._holes

    @property
    def _at_rest(self) -> bool:
        return time.monotonic() - self._taken_at > _REST_S

    def _came(self, places: Collection[Any]) -> None:
        self._unmarked.update(places)
        if self._in_flight is not None:
            self._consumer.pause(*places)

    def _went(self, places: Collection[Any]) -> None:
        self._unmarked.difference_update(places)
        if self._holes:
            self._holes.forget(places)
        self._aside.forget([place.partition for place in places])
        if self._in_flight is not None and _place(self._in_flight) in places:
            self._lost = True

    def _holding(self, topic: str) -> Holding:
        """Return what this member has when it joins; called as `_came` and `_went` are.

        A member that learns only now that the group went on without it still believes that it has its
        partitions, and so does kafka-python. Others have had them: what is known of them here is worthless.
        """
        owned = frozenset(place.partition for place in self._consumer.assignment() if place.topic == topic)
        if owned and self._consumer.group_metadata().generation_id < 0:
            self._evicted = True
            return Holding()
        busy = {self._in_flight.partition} if self._in_flight is not None else set()
        return Holding(owned, owned & busy)

    def _lend_due(self) -> bool:
        """Deliver a record that is due, if its partition is still ours."""
        if self._aside.again(time.monotonic(), in_turn=True) is None:
            return False
        self._turn(_CATCH_MS)
        return self._settle(_REBALANCE_S) and self._lend(in_turn=True)

    def _read_on(self, end: float) -> None:
        """Read until a record does not wait behind others, one is due, or `end` is reached."""
        while found := self._poll_awake(end):
            self._take(*next(iter(found.values())))
            if self._lend(in_turn=True):
                return
        settled = self._settle(_REBALANCE_S)
        self._listen_for_broker(patience_s=ANSWER_S / 2)
        self._see_to_stall()
        if self._holes_here().blind:
            self._count(self._consumer.assignment(), self._position)
        if settled:
            self._lend()

    def _poll_awake(self, end: float) -> dict[Any, Any]:
        """Poll for records until one that waits is due; skip partitions without room for more."""
        consumer, now = self._consumer, time.monotonic()
        consumer.resume(*self._holes_here().due(self._open(consumer.paused())))
        due = max(self._aside.due(), now + FETCH_S)  # new records have their turn, too
        return self._poll(max(_CATCH_MS, ceil(1000 * (min(end, due) - now))))

    def _open(self, places: Collection[Any]) -> list[Any]:
        """Return the partitions whose next record may be read."""
        return [place for place in places if place.partition not in self._aside.stopped]

    def _take(self, record: Any) -> None:
        self._heard_at = self._got_at = time.monotonic()
        found = read(record)
        self._holes_here().forget([_place(found)])
        self._aside.take(found)
        if found.partition in self._aside.stopped:
            self._consumer.seek(_place(found), found.offset)
            self._consumer.pause(_place(found))

    def _lend(self, *, in_turn: bool = False) -> bool:
        """Deliver a record that was read, if one does not have to wait."""
        found = self._aside.again(time.monotonic(), in_turn=in_turn)
        if found is None:
            return False
        self._aside.lend(found)
        self._in_flight, self._taken_at = found, time.monotonic()
        self._consumer.pause(*self._consumer.assignment())
        return True

    def _turn(self, timeout_ms: float) -> None:
        """Let the client attend to the group, and deliver nothing."""
        consumer = self._consumer
        consumer.pause(*consumer.assignment())
        self._turned_at = time.monotonic()
        for place, records in self._poll(timeout_ms).items():
            consumer.seek(place, records[0].offset)

    def _poll(self, timeout_ms: float) -> dict[Any, Any]:
        found: dict[Any, Any] = self._consumer.poll(timeout_ms=timeout_ms, max_records=1)
        if self._evicted or self._made_anew():
            self._drop()
            self._consumer = self._join()
            return {}
        return found

    def _made_anew(self) -> bool:
        """Return whether the topic was removed and created again: kafka-python would go on where it was."""
        known, found = self._topic_id, self._consumer._cluster.topic_id(self._topic)
        return bool(known and found and found.int and known != found)

    def _mark_starts(self) -> None:
        """Do so for partitions that came; if it fails, the next turn tries again."""
        places = self._unmarked.copy()
        if places and self._consumer.group_metadata().state is MemberState.STABLE:
            with contextlib.suppress(kafka_errors.KafkaError):
                mark_starts(self._consumer, places, timeout_ms=_MARK_MS)
                self._unmarked -= places

    def _commit(self, delivery: Delivery) -> bool:
        place, end = _place(delivery), time.monotonic() + ANSWER_S
        while True:
            if not self._settle(end - time.monotonic()):
                raise kafka_errors.KafkaTimeoutError("The group does not settle.")
            if place not in self._consumer.assignment() or (self._lost and not self._next_in_line(delivery)):
                return False
            try:
                committed = kafka.OffsetAndMetadata(self._aside.floor_after(delivery))
                # Even if the offset stays the same.
                self._consumer.commit({place: committed}, timeout_ms=ANSWER_S * 1000)
            except (kafka_errors.CommitFailedError, kafka_errors.RebalanceInProgressError):
                self._turn(_CATCH_MS)  # the group is changing: see what is still ours
                if time.monotonic() > end:
                    raise
                continue
            self._consumer.seek(place, self._aside.reached(delivery))
            self._aside.finish(delivery)
            self._heard_at = time.monotonic()
            return True

    def _settle(self, timeout_s: float) -> bool:
        """Wait until the group has agreed who has which partition; False if it has not."""
        start = time.monotonic()
        while self._consumer.group_metadata().state is not MemberState.STABLE:
            now = time.monotonic()
            self._unsettled_since = self._unsettled_since or now
            if now - self._unsettled_since > self._settings.session_s + _STUCK_S:
                self._drop()
                raise kafka_errors.KafkaTimeoutError("The group does not settle.")
            if now - start > timeout_s:
                return False
            self._turn(5 * _CATCH_MS)
        self._unsettled_since = 0.0
        return True

    def _next_in_line(self, delivery: Delivery) -> bool:
        """Return whether a record that was lost and came back is still the group's next one to finish.

        It is not if another member finished it, nor if the broker lost its log meanwhile and now has other
        records there, which nobody has seen.
        """
        found = self._consumer.committed(_place(delivery), metadata=True, timeout_ms=ANSWER_S * 1000)
        return bool(found and found.offset == delivery.offset and found.metadata != START)

    def _count(self, places: Collection[Any], start: Callable[[Any], int]) -> int:
        """Count the records of partitions, each from the offset that `start` returns."""
        ends = self._consumer.end_offsets(sorted(places), timeout_ms=ANSWER_S * 1000) if places else {}
        self._heard_at = time.monotonic() if ends else self._heard_at
        self._holes_here().note_ends(ends)
        return sum(max(0, end - start(place)) for place, end in ends.items())

    def _see_to_stall(self) -> None:
        """Replace a client that delivers nothing although there are records."""
        if time.monotonic() - self._got_at < _STALL_S:
            return
        open = self._open(self._consumer.assignment() - self._holes_here().places)
        self._stalls = self._stalls + 1 if self._count(open, self._position) else 0
        if self._stalls == 0:
            self._got_at = time.monotonic()
        elif self._stalls >= _STALLS:
            self._drop()

    def _floor(self, place: Any) -> int:
        floor = self._aside.floor(place.partition)
        return self._position(place) if floor is None else floor

    def _position(self, place: Any) -> int:
        return int(self._consumer.position(place, timeout_ms=ANSWER_S * 1000) or 0)

    def _listen_for_broker(self, *, patience_s: float, tolerated_s: float = 0.0) -> None:
        """Ask the broker for a sign of life if there was none lately."""
        silence_s = time.monotonic() - self._heard_at
        if silence_s < (_CALM_SILENCE_S if self._at_rest else _SILENCE_S):
            return
        try:
            self._consumer.end_offsets([kafka.TopicPartition(self._topic, 0)], timeout_ms=patience_s * 1000)
        except kafka_errors.RetriableError:
            if silence_s > tolerated_s:
                raise
        else:
            self._heard_at = time.monotonic()

    def _forget(self) -> None:
        self._in_flight, self._lost = None, False

    def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._unsettled_since, self._evicted = 0.0, False
        self._stalls, self._got_at = 0, time.monotonic()
        self._lost = self._in_flight is not None
        self._aside.forget()
        self._unmarked.clear()
        if consumer is not None:
            leave(consumer)


def _place(delivery: Delivery) -> Any:
    return kafka.TopicPartition(delivery.topic, delivery.partition)
