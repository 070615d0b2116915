"""A Kafka consumer that joins a group as a subscription wants it, and its pace at work and at rest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import Any

import kafka

from histgen_lib.bus import BusSettings
from histgen_lib.bus._kafka_assignor import BusyStaysAssignor
from histgen_lib.bus._kafka_client import ANSWER_S, connect, ensure_topic, talking
from histgen_lib.bus._sharing import Holding

_HEARTBEAT_MS, _FETCH_MS = (1000, 3000), (100, 2000)
"""At work, and at rest. A member at rest hears more rarely of newcomers (by heartbeat), and leaves requests
for records with the broker for longer, which answers them as soon as there is one. At work they must be
short: one that waits keeps later ones waiting."""
FETCH_S = _FETCH_MS[0] / 1000
"""How long a request for records may take at work."""

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

    `holding` tells what this member has when it joins; `came` and `went` hear of partitions.
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
        enable_incremental_fetch_sessions=False,  # else nothing is said of what stays missing
        enable_auto_commit=False,
        isolation_level="read_committed",  # what a producer took back was never said
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
    )
    consumer.subscribe([topic], listener=_Listener(came, went))
    try:
        # Where the topic's partitions are not known before the group is joined, it is joined twice.
        with talking():
            consumer.end_offsets([kafka.TopicPartition(topic, 0)], timeout_ms=ANSWER_S * 1000)
    except BaseException:
        leave(consumer)
        raise
    return consumer


def pace(consumer: Any, settings: BusSettings, *, at_rest: bool) -> None:
    """Be brisk at work, and spare at rest."""
    heartbeat_ms = min(_HEARTBEAT_MS[at_rest], int(settings.session_s * 1000) // 3)
    consumer._coordinator.heartbeat.config["heartbeat_interval_ms"] = heartbeat_ms
    consumer._fetcher.config["fetch_max_wait_ms"] = _FETCH_MS[at_rest]


def leave(consumer: Any) -> None:
    """Leave the group, if the broker can be told so, and commit nothing."""
    with contextlib.suppress(Exception):
        consumer.close(autocommit=False, timeout_ms=2000)
