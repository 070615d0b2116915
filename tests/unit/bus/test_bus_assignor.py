"""On Kafka a partition has no two members at a time: its owner gives it up before another gets it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from histgen_lib.bus._kafka_joining import BusyStaysAssignor
from histgen_lib.bus._sharing import Holding


def cluster(**partitions: int) -> Any:
    return SimpleNamespace(partitions_for_topic=lambda topic: set(range(partitions.get(topic, 0))))


def joining(topics: list[str], **held: tuple[Holding, ...]) -> list[Any]:
    """Have members join who say what they hold of each topic."""
    members = []
    for name, holdings in held.items():
        held_by_topic = dict(zip(topics, holdings, strict=True))
        metadata = BusyStaysAssignor(held_by_topic.__getitem__).metadata(held_by_topic)
        members.append(SimpleNamespace(member_id=name, metadata=type(metadata).decode(metadata.encode())))
    return members


def assigned(cluster: Any, members: list[Any]) -> dict[str, set[tuple[str, int]]]:
    assignments = BusyStaysAssignor(lambda _: Holding()).assign(cluster, members)
    return {
        name: {(place.topic, place.partition) for place in type(one).decode(one.encode()).partitions()}
        for name, one in assignments.items()
    }


def holding(*owned: int, busy: int | None = None) -> Holding:
    return Holding(frozenset(owned), frozenset() if busy is None else frozenset({busy}))


def test_a_partition_that_changes_hands_has_no_owner_for_one_round() -> None:
    first = assigned(cluster(t=4), joining(["t"], old=(holding(0, 1, 2, 3, busy=3),), new=(holding(),)))
    assert first == {"old": {("t", 0), ("t", 3)}, "new": set()}
    second = assigned(cluster(t=4), joining(["t"], old=(holding(0, 3, busy=3),), new=(holding(),)))
    assert second == {"old": {("t", 0), ("t", 3)}, "new": {("t", 1), ("t", 2)}}


def test_a_partition_without_an_owner_is_assigned_at_once() -> None:
    members = joining(["t"], a=(holding(),), b=(holding(),))
    shares = assigned(cluster(t=5), members)
    assert sorted(place for share in shares.values() for place in share) == [("t", n) for n in range(5)]


def test_topics_are_shared_out_independently() -> None:
    members = joining(["t", "u"], a=(holding(0, 1), holding()), b=(holding(), holding(0, 1)))
    assert assigned(cluster(t=2, u=2), members) == {"a": {("t", 0)}, "b": {("u", 0)}}


def test_a_topic_that_the_leader_does_not_know_yet_is_left_out() -> None:
    assert assigned(cluster(), joining(["t"], a=(holding(),))) == {"a": set()}
