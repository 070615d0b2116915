"""Joining a Kafka consumer group: settings, assignment of partitions, and the pace at work and at rest."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection
from typing import Any

import kafka
from kafka.coordinator.assignors.abstract import AbstractPartitionAssignor, RebalanceProtocol
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

from histgen_lib.bus._kafka_client import ANSWER_S, connect, ensure_topic, talking
from histgen_lib.bus._port import BusSettings
from histgen_lib.bus._sharing import Holding, share

_HEARTBEAT_MS, _FETCH_MS = (1000, 3000), (100, 2000)
"""At work, and at rest. A member at rest learns of newcomers less often (by heartbeat), and leaves requests
for records with the broker for longer; the broker answers them as soon as there is one. At work they must be
short: one that waits keeps later ones waiting."""
FETCH_S = _FETCH_MS[0] / 1000
"""How long a request for records may take at work."""

START = "start"
"""What goes with a committed offset that stands for no finished record."""
_VERSION = 1  # of Kafka's own format; from 1 on it has a place for what a member owns

_Heard = Callable[[Collection[Any]], None]


class _Listener(kafka.ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Hears which partitions come and go; called in kafka-python's own thread, so it sends no requests."""

    def __init__(self, came: _Heard, went: _Heard) -> None:
        self._came, self._went = came, went

    def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        """Pass it on."""
        self._came(assigned)

    def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        """Pass it on; kafka-python also calls this for lost partitions."""
        self._went(revoked)


class BusyStaysAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # kafka-python has no types
    """Assigns partitions fairly and stickily, and never moves one in use.

    `holding`: what this member has now. By the cooperative protocol (KIP-429), in two rounds: a partition's
    owner gives it up, then the new one gets it.
    """

    name = "histgen-busy-stays-1"

    def __init__(self, holding: Callable[[str], Holding]) -> None:
        self._holding = holding

    def supported_protocols(self) -> list[Any]:
        """Cooperative only."""
        return [RebalanceProtocol.COOPERATIVE]

    def metadata(self, topics: Collection[str]) -> Any:
        """Return what the leader learns of this member."""
        held = {topic: self._holding(topic) for topic in sorted(topics)}
        owned = ConsumerProtocolSubscription.TopicPartition
        return ConsumerProtocolSubscription(
            version=_VERSION,
            topics=list(held),
            user_data=json.dumps({topic: sorted(h.busy) for topic, h in held.items()}).encode(),
            owned_partitions=[owned(topic=topic, partitions=sorted(h.owned)) for topic, h in held.items()],
        )

    def assign(self, cluster: Any, members: list[Any]) -> dict[str, Any]:
        """Share the partitions out as the leader; one that changes hands has no owner for one round."""
        assigned: dict[str, list[tuple[str, list[int]]]] = {member.member_id: [] for member in members}
        for topic in sorted({topic for member in members for topic in member.metadata.topics}):
            here = [member for member in members if topic in member.metadata.topics]
            holdings = {member.member_id: _holding_of(member.metadata, topic) for member in here}
            shares = share(cluster.partitions_for_topic(topic) or (), holdings)
            for id, partitions in shares.items():
                others = frozenset[int]().union(*(h.owned for other, h in holdings.items() if other != id))
                assigned[id].append((topic, sorted(partitions - (others - holdings[id].owned))))
        return {id: ConsumerProtocolAssignment(_VERSION, parts, b"") for id, parts in assigned.items()}

    def on_assignment(self, assignment: Any, generation: int) -> None:
        """Nothing to remember: `holding` knows."""


def join(
    settings: BusSettings,
    servers: list[str],
    topic: str,
    group: str,
    *,
    holding: Callable[[str], Holding],
    came: _Heard,
    went: _Heard,
) -> Any:
    """Make a consumer in `group`, and the topic if it is missing. Raises as `talking`.

    `holding` returns what this member has when it joins; `came` and `went` are called with partitions.
    """
    ensure_topic(settings, servers, topic)
    session_ms = int(settings.session_s * 1000)
    consumer = connect(
        kafka.KafkaConsumer,
        settings,
        servers,
        group_id=group,
        partition_assignment_strategy=[BusyStaysAssignor(holding)],
        session_timeout_ms=session_ms,
        heartbeat_interval_ms=min(_HEARTBEAT_MS[0], session_ms // 3),
        max_poll_interval_ms=max(60_000, 6 * session_ms),
        max_poll_records=1,
        fetch_max_wait_ms=_FETCH_MS[0],
        enable_incremental_fetch_sessions=False,  # else an answer leaves out what is still missing
        enable_auto_commit=False,
        isolation_level="read_committed",  # what a producer rolled back never existed
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
    )
    consumer.subscribe([topic], listener=_Listener(came, went))
    try:
        # If the topic's partitions are unknown before the group is joined, it is joined twice.
        with talking():
            consumer.end_offsets([kafka.TopicPartition(topic, 0)], timeout_ms=ANSWER_S * 1000)
    except BaseException:
        leave(consumer)
        raise
    return consumer


def mark_starts(consumer: Any, places: Collection[Any], *, timeout_ms: int) -> None:
    """Commit the start of each partition in which the group has committed nothing yet.

    Whoever scales workers by lag, which is counted from the committed offset, would otherwise see no lag
    or a false one in a partition whose first record is still to come or still in work. `places` must be ours:
    what another member committed before is seen here, and afterwards no other can. Raises as kafka-python.
    """
    committed = consumer._coordinator.fetch_committed_offsets(list(places), timeout_ms=timeout_ms)
    bare = [place for place in places if place not in committed]
    if bare:
        starts = consumer.beginning_offsets(bare, timeout_ms=timeout_ms)
        offsets = {place: kafka.OffsetAndMetadata(start, START) for place, start in starts.items()}
        consumer.commit(offsets, timeout_ms=timeout_ms)


def pace(consumer: Any, settings: BusSettings, *, at_rest: bool) -> None:
    """Set the pace: brisk at work, sparing at rest."""
    heartbeat_ms = min(_HEARTBEAT_MS[at_rest], int(settings.session_s * 1000) // 3)
    consumer._coordinator.heartbeat.config["heartbeat_interval_ms"] = heartbeat_ms
    consumer._fetcher.config["fetch_max_wait_ms"] = _FETCH_MS[at_rest]


def leave(consumer: Any) -> None:
    """Leave the group, if the broker can be reached, and commit nothing."""
    with contextlib.suppress(Exception):
        consumer.close(autocommit=False, timeout_ms=2000)


def _holding_of(metadata: Any, topic: str) -> Holding:
    """Read what a member holds of a topic."""
    owned = {p for held in metadata.owned_partitions or () if held.topic == topic for p in held.partitions}
    busy = json.loads(metadata.user_data or b"{}").get(topic, [])
    return Holding(frozenset(owned), frozenset(busy) & frozenset(owned))
