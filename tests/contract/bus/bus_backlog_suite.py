"""What every broker tells of the records that wait for a group; used like `BusSuite`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from bus_members import new_name, publish, publishing, scanned, watching
from bus_suite import take, take_all

from histgen_lib.bus import Backlog, BusSettings, Publisher


def published_now(publisher: Publisher, topic: str, slide: str) -> float:
    """Publish an event of this moment; return it, in seconds since 1970."""
    now = datetime.now(UTC)
    publisher.publish(topic, slide, dataclasses.replace(scanned(slide), time=now))
    return now.timestamp()


class BacklogSuite:
    """Behaviour that metrics and autoscalers rely on."""

    @pytest.fixture
    def backlog(self, settings: BusSettings) -> Iterator[Backlog]:
        opened = watching(settings)
        yield opened
        opened.close()

    @pytest.fixture
    def narrow(self, settings: BusSettings) -> Iterator[Publisher]:
        """Publish to topics with one partition."""
        with publishing(dataclasses.replace(settings, partitions=1)) as opened:
            yield opened

    def test_a_topic_that_is_not_there_has_no_backlog_and_is_not_made(self, backlog: Backlog) -> None:
        name = new_name()
        assert backlog.waiting(name, "g") == {}
        assert backlog.waiting(name, "g") == {}

    def test_all_records_wait_for_a_group_that_never_finished_one(
        self, publisher: Publisher, backlog: Backlog, topic: str
    ) -> None:
        publish(publisher, topic, slides=3, each=2)
        found = backlog.waiting(topic, f"g-{topic}")
        assert len(found) == 12
        assert sum(one.records for one in found.values()) == 6

    def test_finished_records_do_not_wait_and_one_in_flight_does(
        self, publisher: Publisher, backlog: Backlog, join, topic: str
    ) -> None:
        publish(publisher, topic, slides=2, each=2)
        subscription = join("g")
        counted = [sum(one.records for one in backlog.waiting(topic, f"g-{topic}").values())]
        for _ in range(4):
            delivery = take(subscription)
            counted.append(sum(one.records for one in backlog.waiting(topic, f"g-{topic}").values()))
            subscription.done(delivery)
        counted.append(sum(one.records for one in backlog.waiting(topic, f"g-{topic}").values()))
        assert counted == [4, 4, 3, 2, 1, 0]

    def test_groups_are_told_apart(self, narrow: Publisher, backlog: Backlog, join, topic: str) -> None:
        publish(narrow, topic, slides=1, each=3)
        take_all(join("g"), 2)
        assert [backlog.waiting(topic, f"{group}-{topic}")[0].records for group in ("g", "h")] == [1, 3]

    def test_the_oldest_record_that_waits_says_when_it_was_published(
        self, narrow: Publisher, backlog: Backlog, join, topic: str
    ) -> None:
        began = time.time()
        first = published_now(narrow, topic, "S0")
        oldest = backlog.waiting(topic, f"g-{topic}")[0].oldest_at
        assert oldest == pytest.approx(first, abs=10)
        second = published_now(narrow, topic, "S1")
        assert backlog.waiting(topic, f"g-{topic}")[0].oldest_at == oldest
        subscription = join("g")
        take_all(subscription, 1)
        found = backlog.waiting(topic, f"g-{topic}")[0].oldest_at
        assert found == pytest.approx(second, abs=10)
        assert found > oldest
        assert oldest >= began - 1
        take_all(subscription, 1)
        assert backlog.waiting(topic, f"g-{topic}")[0].oldest_at is None

    def test_each_partition_has_its_own_oldest(
        self, publisher: Publisher, backlog: Backlog, topic: str
    ) -> None:
        sent = [published_now(publisher, topic, f"S{number}") for number in range(8)]
        found = [one for one in backlog.waiting(topic, f"g-{topic}").values() if one.records]
        assert len(found) > 1
        assert all(sent[0] - 10 < one.oldest_at < sent[-1] + 10 for one in found if one.oldest_at)
        assert all(one.oldest_at for one in found)

    def test_a_record_that_is_no_event_waits_too(
        self, narrow: Publisher, backlog: Backlog, topic: str
    ) -> None:
        narrow.publish_raw(topic, "key", b"\xff")
        assert backlog.waiting(topic, f"g-{topic}")[0].records == 1
