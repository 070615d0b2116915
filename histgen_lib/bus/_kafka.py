"""Subscription to Apache Kafka by kafka-python: at least once, one record in flight a member.

A job takes minutes, so a member that works pauses its partitions and polls nothing but the group's news.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import kafka
from kafka import errors as kafka_errors
from kafka.structs import MemberState

from histgen_lib.bus import BusSettings, Delivery, Reason
from histgen_lib.bus._kafka_assignor import BusyStaysAssignor
from histgen_lib.bus._kafka_client import ANSWER_S, connect, ensure_topic, talking
from histgen_lib.bus._kafka_damage import read
from histgen_lib.bus._kafka_holes import Holes
from histgen_lib.bus._kafka_publisher import KafkaPublisher
from histgen_lib.bus._sharing import Holding
from histgen_lib.errors import HistgenError, TransientError
from histgen_lib.events import DEAD_LETTER

_SILENCE_S, _CALM_SILENCE_S = 2.0, 10.0
"""After so long without a sign of the broker it is asked for one; the second holds for a member at rest."""
_REST_S, _HEARTBEAT_MS, _FETCH_MS = 10.0, (1000, 3000), (100, 2000)
"""A member that got no record for so long is at rest. Then it hears more rarely of newcomers (by heartbeat),
and leaves requests for records with the broker for longer, which answers them as soon as there is one. At
work they must be short: one that waits keeps later ones waiting."""
_PATIENCE_S = 5.0
"""A member that works asks in passing; only after so long it takes a late answer for an absent broker."""
_TURN_S = 0.5
"""So often a member that works sees to the group's business."""
_CATCH_MS, _REBALANCE_S, _STUCK_S = 20, 1.0, 20.0
"""kafka-python 3.0.12 takes in the end of a rebalance only within a call of `poll`; one that ends between two
calls it starts anew, or (where a change of the topic began it) forgets. So it gets calls, one upon the other,
until the group is settled. An end that is due comes within the first of these times, a whole rebalance most
often within the second, and after the third the client must have forgotten it: another is made."""
_STALL_S, _STALLS = 10.0, 5
"""kafka-python 3.0.12 can lay records of a paused partition aside and never come back to them. A member that
got nothing for so long looks whether something lies there; if so so many times, its client is replaced."""
_GIVE_UP_S = 60.0
"""After so long a failing client is replaced by a new one."""


_Heard = Callable[[Collection[Any]], None]


class _Listener(kafka.ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Hears what comes and goes, while we poll, in kafka-python's own thread: no requests from here."""

    def __init__(self, came: _Heard, went: _Heard) -> None:
        self._came, self._went = came, went

    def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        """Pass it on."""
        self._came(assigned)

    def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        """Pass it on; kafka-python calls this for lost partitions, too."""
        self._went(revoked)


class KafkaSubscription:
    """A `Subscription` to a Kafka topic."""

    def __init__(self, settings: BusSettings, servers: list[str], topic: str, group: str) -> None:
        self._settings, self._servers, self._topic, self._group = settings, servers, topic, group
        self._letters = KafkaPublisher(settings, servers)
        self._consumer: Any = None
        self._holes: Any = None
        self._in_flight: Delivery | None = None
        self._lost = self._evicted = False
        self._topic_id: Any = None
        self._stalls = 0
        self._heard_at = self._turned_at = self._failing_since = self._unsettled_since = 0.0
        self._got_at = self._taken_at = time.monotonic()

    def next(self, timeout_s: float) -> Delivery | None:
        """See `Subscription.next`."""
        if self._in_flight is not None:
            raise ValueError(f"{self._in_flight.position} is still in flight")
        with self._consuming() as consumer:
            self._pace(consumer)
            consumer.resume(*self._holes.due(consumer.paused()))
            found = self._poll(max(_CATCH_MS, int(timeout_s * 1000)))
            if found:
                self._take(*next(iter(found.values())))
                consumer.pause(*consumer.assignment())
            else:
                self._settle(_REBALANCE_S)
                self._listen_for_broker(patience_s=ANSWER_S / 2)
                self._see_to_stall()
                if self._holes.blind:
                    self._behind()
        return self._in_flight

    def keep(self) -> bool:
        """See `Subscription.keep`."""
        if time.monotonic() - self._turned_at < _TURN_S:
            return not self._lost
        with self._consuming():
            self._turn(_CATCH_MS)
            self._settle(_REBALANCE_S)
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
        with self._consuming() as consumer:
            place = _place(delivery)
            if place in consumer.assignment() and not self._lost:
                consumer.seek(place, delivery.offset)
        self._forget()

    def lag(self) -> int:
        """See `Subscription.lag`."""
        with self._consuming():
            return self._behind()

    def trouble(self) -> TransientError | None:
        """See `Subscription.trouble`."""
        told: TransientError | None = self._holes.trouble() if self._consumer else None
        return told

    def close(self) -> None:
        """See `Subscription.close`."""
        self._drop()
        self._letters.close()

    @contextlib.contextmanager
    def _consuming(self) -> Iterator[Any]:
        """Lend the consumer, making one if need be; one that has failed for long is given up."""
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
        ensure_topic(self._settings, self._servers, self._topic)
        session_ms = int(self._settings.session_s * 1000)
        consumer = connect(
            kafka.KafkaConsumer,
            self._settings,
            self._servers,
            group_id=self._group,
            partition_assignment_strategy=[BusyStaysAssignor(self._holding)],
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=min(_HEARTBEAT_MS[0], session_ms // 3),
            max_poll_interval_ms=max(60_000, 6 * session_ms),
            max_poll_records=1,
            fetch_max_wait_ms=_FETCH_MS[0],
            enable_incremental_fetch_sessions=False,  # else nothing is said of what stays missing
            enable_auto_commit=False,
            isolation_level="read_committed",  # what a producer took back was never said
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
        )
        consumer.subscribe([self._topic], listener=_Listener(self._came, self._went))
        try:
            # Where the topic's partitions are not known before the group is joined, it is joined twice.
            with talking():
                consumer.end_offsets([kafka.TopicPartition(self._topic, 0)], timeout_ms=ANSWER_S * 1000)
        except BaseException:
            _close(consumer)
            raise
        self._topic_id, self._holes = consumer._cluster.topic_id(self._topic), Holes(consumer)
        self._heard_at = time.monotonic()
        return consumer

    @property
    def _at_rest(self) -> bool:
        return time.monotonic() - self._taken_at > _REST_S

    def _pace(self, consumer: Any) -> None:
        """Be brisk at work, and spare at rest."""
        heartbeat_ms = min(_HEARTBEAT_MS[self._at_rest], int(self._settings.session_s * 1000) // 3)
        consumer._coordinator.heartbeat.config["heartbeat_interval_ms"] = heartbeat_ms
        consumer._fetcher.config["fetch_max_wait_ms"] = _FETCH_MS[self._at_rest]

    def _came(self, places: Collection[Any]) -> None:
        if self._in_flight is not None:
            self._consumer.pause(*places)

    def _went(self, places: Collection[Any]) -> None:
        self._holes.forget(places)
        if self._in_flight is not None and _place(self._in_flight) in places:
            self._lost = True

    def _holding(self, topic: str) -> Holding:
        """Tell what this member has, when it joins; called as `_came` and `_went` are.

        A member that hears only now that the group went on without it still believes in its partitions, and
        kafka-python with it. Others have had them: what is known of them here is worth nothing any more.
        """
        owned = frozenset(place.partition for place in self._consumer.assignment() if place.topic == topic)
        if owned and self._consumer.group_metadata().generation_id < 0:
            self._evicted = True
            return Holding()
        busy = {self._in_flight.partition} if self._in_flight is not None else set()
        return Holding(owned, owned & busy)

    def _take(self, record: Any) -> None:
        self._heard_at = self._got_at = self._taken_at = time.monotonic()
        self._in_flight = read(record)
        self._holes.forget([_place(self._in_flight)])

    def _turn(self, timeout_ms: float) -> None:
        """Have the group's business done, and nothing delivered."""
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
        """Say whether the topic was removed and made again: kafka-python would go on where it was."""
        known, found = self._topic_id, self._consumer._cluster.topic_id(self._topic)
        return bool(known and found and found.int and known != found)

    def _commit(self, delivery: Delivery) -> bool:
        place, end = _place(delivery), time.monotonic() + ANSWER_S
        behind = delivery.offset + delivery.offsets
        while True:
            if not self._settle(end - time.monotonic()):
                raise kafka_errors.KafkaTimeoutError("The group does not settle.")
            if place not in self._consumer.assignment() or (self._lost and not self._next_in_line(delivery)):
                return False
            try:
                self._consumer.commit({place: kafka.OffsetAndMetadata(behind)}, timeout_ms=ANSWER_S * 1000)
            except (kafka_errors.CommitFailedError, kafka_errors.RebalanceInProgressError):
                self._turn(_CATCH_MS)  # the group changes: see what is still ours
                if time.monotonic() > end:
                    raise
                continue
            self._consumer.seek(place, behind)
            self._heard_at = time.monotonic()
            return True

    def _settle(self, timeout_s: float) -> bool:
        """Wait until the group has agreed who has what; False if it has not."""
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
        """Say whether a record that was lost and came back is what the group has to finish next.

        It is not if another member finished it, nor if the broker lost its log meanwhile: what lies there now
        are other records, which nobody has seen.
        """
        committed = self._consumer.committed(_place(delivery), timeout_ms=ANSWER_S * 1000)
        return bool(committed == delivery.offset)

    def _behind(self, but: Collection[Any] = ()) -> int:
        places = sorted(self._consumer.assignment() - set(but))
        ends = self._consumer.end_offsets(places, timeout_ms=ANSWER_S * 1000) if places else {}
        self._heard_at = time.monotonic() if ends else self._heard_at
        self._holes.note_ends(ends)
        return sum(max(0, end - self._reached(place)) for place, end in ends.items())

    def _see_to_stall(self) -> None:
        """Replace a client that delivers nothing though something lies there."""
        if time.monotonic() - self._got_at < _STALL_S:
            return
        self._stalls = self._stalls + 1 if self._behind(but=self._holes.places) else 0
        if self._stalls == 0:
            self._got_at = time.monotonic()
        elif self._stalls >= _STALLS:
            self._drop()

    def _reached(self, place: Any) -> int:
        if self._in_flight is not None and _place(self._in_flight) == place:
            return self._in_flight.offset
        return int(self._consumer.position(place, timeout_ms=ANSWER_S * 1000) or 0)

    def _listen_for_broker(self, *, patience_s: float, tolerated_s: float = 0.0) -> None:
        """Ask the broker for a sign of life when there was none lately."""
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
        if consumer is not None:
            _close(consumer)


def _close(consumer: Any) -> None:
    with contextlib.suppress(Exception):  # it leaves the group if it can
        consumer.close(autocommit=False, timeout_ms=2000)


def _place(delivery: Delivery) -> Any:
    return kafka.TopicPartition(delivery.topic, delivery.partition)
