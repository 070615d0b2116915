"""Our partition assignor for Kafka's consumer groups: fair, sticky, and never moves a partition in use.

The cooperative protocol (KIP-429) in two rounds: a partition's owner gives it up, then the new one gets it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

from kafka.coordinator.assignors.abstract import AbstractPartitionAssignor, RebalanceProtocol
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

from histgen_lib.bus._sharing import Holding, share

_VERSION = 1  # of Kafka's own format; from 1 on it has a place for what a member owns


class BusyStaysAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # kafka-python has no types
    """`holding` tells what this member has of a topic at the moment, when it joins."""

    name = "histgen-busy-stays-1"

    def __init__(self, holding: Callable[[str], Holding]) -> None:
        self._holding = holding

    def supported_protocols(self) -> list[Any]:
        """Cooperative only."""
        return [RebalanceProtocol.COOPERATIVE]

    def metadata(self, topics: Collection[str]) -> Any:
        """Tell the leader what this member has."""
        held = {topic: self._holding(topic) for topic in sorted(topics)}
        owned = ConsumerProtocolSubscription.TopicPartition
        return ConsumerProtocolSubscription(
            version=_VERSION,
            topics=list(held),
            user_data=json.dumps({topic: sorted(h.busy) for topic, h in held.items()}).encode(),
            owned_partitions=[owned(topic=topic, partitions=sorted(h.owned)) for topic, h in held.items()],
        )

    def assign(self, cluster: Any, members: list[Any]) -> dict[str, Any]:
        """Share out, as the group's leader; what changes hands has no owner for one round."""
        given: dict[str, list[tuple[str, list[int]]]] = {member.member_id: [] for member in members}
        for topic in sorted({topic for member in members for topic in member.metadata.topics}):
            here = [member for member in members if topic in member.metadata.topics]
            holdings = {member.member_id: _told(member.metadata, topic) for member in here}
            shares = share(cluster.partitions_for_topic(topic) or (), holdings)
            for id, partitions in shares.items():
                others = frozenset[int]().union(*(h.owned for other, h in holdings.items() if other != id))
                given[id].append((topic, sorted(partitions - (others - holdings[id].owned))))
        return {id: ConsumerProtocolAssignment(_VERSION, parts, b"") for id, parts in given.items()}

    def on_assignment(self, assignment: Any, generation: int) -> None:
        """Nothing to remember: `holding` knows."""


def _told(metadata: Any, topic: str) -> Holding:
    """Read what a member told of a topic."""
    owned = {p for held in metadata.owned_partitions or () if held.topic == topic for p in held.partitions}
    busy = json.loads(metadata.user_data or b"{}").get(topic, [])
    return Holding(frozenset(owned), frozenset(busy) & frozenset(owned))
