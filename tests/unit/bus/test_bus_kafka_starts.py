"""Committed starts of partitions: only where the group has committed nothing; they stand for no record."""

from __future__ import annotations

from types import SimpleNamespace

import kafka
import pytest
from kafka.errors import CommitFailedError

from histgen_lib.bus import BusSettings, Delivery
from histgen_lib.bus._kafka import KafkaSubscription
from histgen_lib.bus._kafka_joining import START, mark_starts

PLACES = [kafka.TopicPartition("t", part) for part in range(3)]


class Group:
    """A consumer's view of its group: partition 1 was committed, the log of partition 2 begins at 7."""

    def __init__(self) -> None:
        self.offsets = {PLACES[1]: kafka.OffsetAndMetadata(4)}
        self._coordinator = SimpleNamespace(fetch_committed_offsets=self._fetch)
        self.refuses = False

    def _fetch(self, places, timeout_ms):
        return {place: self.offsets[place] for place in places if place in self.offsets}

    def beginning_offsets(self, places, timeout_ms):
        return {place: 7 if place == PLACES[2] else 0 for place in places}

    def commit(self, offsets, timeout_ms):
        if self.refuses:
            raise CommitFailedError
        self.offsets |= offsets

    def committed(self, place, *, metadata, timeout_ms):
        assert metadata
        return self.offsets.get(place)


def test_only_partitions_without_an_offset_get_the_start_of_their_log():
    group = Group()
    mark_starts(group, PLACES, timeout_ms=1)
    assert group.offsets == {
        PLACES[0]: kafka.OffsetAndMetadata(0, START),
        PLACES[1]: kafka.OffsetAndMetadata(4),
        PLACES[2]: kafka.OffsetAndMetadata(7, START),
    }


def test_a_group_that_has_gone_on_refuses_them():
    group = Group()
    group.refuses = True
    with pytest.raises(CommitFailedError):
        mark_starts(group, PLACES, timeout_ms=1)


@pytest.mark.parametrize(("metadata", "next_in_line"), [(START, False), ("", True)])
def test_a_lost_record_at_a_mere_start_is_not_taken_for_the_next_one(metadata, next_in_line):
    """The log may be another one, whose record at this offset nobody has seen."""
    subscription = KafkaSubscription(BusSettings("kafka://none:1"), ["none:1"], "t", "g")
    subscription._consumer = Group()
    subscription._consumer.offsets[PLACES[0]] = kafka.OffsetAndMetadata(0, metadata)
    assert subscription._next_in_line(Delivery("t", 0, 0, b"")) is next_in_line
