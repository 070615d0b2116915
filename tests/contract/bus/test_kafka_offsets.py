"""A group has an offset in every partition as soon as a member joined, so that its lag shows."""

from __future__ import annotations

import pytest
from bus_members import Member, number_of, publish
from group_offsets import offsets_of, remove_records
from waiting import until

from histgen_lib.bus import BusSettings
from histgen_lib.capacity.triggers import NONE_COMMITTED, Offsets
from histgen_lib.stack.kafka import KafkaProcess

PARTS = 4


@pytest.fixture
def settings(kafka: KafkaProcess) -> BusSettings:
    return BusSettings(kafka.url, partitions=PARTS, session_s=3.0)


@pytest.fixture
def seen(settings, topic):
    """Return a function that returns the offsets of a group as the broker knows them."""
    return lambda group: offsets_of(settings, topic, f"{group}-{topic}") or []


def all_committed(offsets: list[Offsets]) -> bool:
    return len(offsets) == PARTS and all(found.committed != NONE_COMMITTED for found in offsets)


def take_one(subscription):
    return until(lambda: subscription.next(0.2), 30, "a record")


def test_a_member_of_an_empty_topic_commits_where_each_partition_starts(join, seen):
    member = join("g")
    until(lambda: member.next(0.1) or all_committed(seen("g")), 30, "an offset in every partition")
    assert seen("g") == [Offsets(0, 0)] * PARTS


def test_records_published_while_no_worker_runs_show_as_lag_and_none_is_skipped(join, seen, publisher, topic):
    """The group is scaled to zero before it has read anything."""
    first = join("g")
    until(lambda: first.next(0.1) or all_committed(seen("g")), 30, "an offset in every partition")
    first.close()
    names = publish(publisher, topic, slides=12)
    assert sum(found.end - found.committed for found in seen("g")) == len(names)
    assert all(found.end - found.committed == found.end for found in seen("g"))

    second = join("g")
    took = []
    while len(took) < len(names):
        delivery = take_one(second)
        took.append(number_of(delivery))
        assert second.done(delivery)
    assert sorted(took) == sorted(names)
    assert second.next(0.5) is None
    assert all(found.end == found.committed for found in seen("g"))


def test_a_member_with_a_long_job_still_commits_in_its_other_partitions(join, seen, publisher, topic):
    """Its own record counts as one of lag for as long as the job runs."""
    publish(publisher, topic, slides=1)
    member = join("g")
    delivery = take_one(member)
    until(lambda: member.keep() and all_committed(seen("g")), 30, "an offset in every partition")
    assert [found.committed for found in seen("g")] == [0] * PARTS
    assert seen("g")[delivery.partition].end == 1
    assert member.done(delivery)
    assert seen("g")[delivery.partition] == Offsets(1, 1)


def test_what_the_broker_removed_long_ago_is_no_lag(join, seen, publisher, topic, settings):
    publish(publisher, topic, slides=12)
    remove_records(
        settings, topic, {part: found.end - 1 for part, found in enumerate(seen("g")) if found.end}
    )
    left = sum(found.end > 0 for found in seen("g"))
    member = join("g")
    delivery = take_one(member)
    until(lambda: member.keep() and all_committed(seen("g")), 30, "an offset in every partition")
    assert sum(found.end - found.committed for found in seen("g")) == left
    assert member.done(delivery)


def test_offsets_that_others_committed_stay(join, seen, publisher, topic, settings):
    """While members come and go, no committed offset ever falls, and no record is done twice or skipped."""
    names = publish(publisher, topic, slides=8, each=6)
    group = f"g-{topic}"
    crew = [Member(settings, topic, group).start()]
    highest = [NONE_COMMITTED] * PARTS

    def nothing_falls(members: int) -> bool:
        for part, found in enumerate(seen("g")):
            assert found.committed >= highest[part], (part, found, highest)
            highest[part] = found.committed
        return sum(len(member.finished) for member in crew) >= members * len(names) // 4

    until(lambda: nothing_falls(1), 60, "the first member works")
    crew.append(Member(settings, topic, group).start())
    until(lambda: nothing_falls(2), 60, "two members work")
    crew[0].leave()
    crew.append(Member(settings, topic, group).start())
    until(lambda: nothing_falls(4), 60, "everything is done")
    for member in crew[1:]:
        member.leave()
    assert sorted(name for member in crew for name in member.finished) == sorted(names)
    assert nothing_falls(4)
    assert all(found.end == found.committed for found in seen("g"))
