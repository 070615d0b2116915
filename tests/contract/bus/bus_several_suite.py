"""What every broker promises a member of several topics, besides what it promises one of a single topic."""

from __future__ import annotations

import pytest
from bus_members import new_name, number_of, publish, subscribe_all
from bus_suite import take, take_all

from histgen_lib.bus import BusSettings, Publisher, Subscription

LONG_S = 3600.0


class SeveralSuite:
    """Behaviour that a worker relies on that takes events of several types."""

    @pytest.fixture
    def topics(self) -> list[str]:
        return [new_name() for _ in range(3)]

    @pytest.fixture
    def join_all(self, settings: BusSettings, topics: list[str]):
        """Return a function that opens a member of all topics; they are closed at the end."""
        opened: list[Subscription] = []

        def join() -> Subscription:
            opened.append(subscribe_all(settings, {topic: f"g-{topic}" for topic in topics}))
            return opened[-1]

        yield join
        for subscription in opened:
            subscription.close()

    def test_records_of_all_topics_arrive_each_in_order_and_one_at_a_time(
        self, publisher: Publisher, join_all, topics: list[str]
    ) -> None:
        for topic in topics:
            publish(publisher, topic, slides=1, each=3)
        subscription, taken = join_all(), {topic: [] for topic in topics}
        for _ in range(9):
            delivery = take(subscription)
            with pytest.raises(ValueError, match="in flight"):
                subscription.next(0)
            assert subscription.keep()
            assert subscription.done(delivery)
            taken[delivery.topic].append(number_of(delivery)[1])
        assert list(taken.values()) == [[0, 1, 2]] * 3
        assert subscription.next(0.3) is None

    def test_no_topic_waits_until_another_is_empty(
        self, publisher: Publisher, join_all, topics: list[str]
    ) -> None:
        busy, *others = topics
        subscription = join_all()
        subscription.next(0)
        publish(publisher, busy, slides=1, each=8)
        for topic in others:
            publish(publisher, topic, slides=1)
        seen = []
        for _ in range(10):
            delivery = take(subscription)
            seen.append(delivery.topic)
            assert subscription.done(delivery)
        assert max(map(seen.index, others)) < len(seen) - seen[::-1].index(busy) - 1

    def test_a_record_set_aside_keeps_back_its_own_topic_alone(
        self, publisher: Publisher, join_all, topics: list[str]
    ) -> None:
        """Records of the same slide on other topics pass it."""
        publish(publisher, topics[0], slides=1, each=2)
        subscription = join_all()
        assert subscription.defer(take(subscription), LONG_S)
        publish(publisher, topics[1], slides=1)
        delivery = take(subscription)
        assert delivery.topic == topics[1]
        assert subscription.done(delivery)
        assert subscription.next(0.3) is None
        assert subscription.lag() == 2

    def test_the_next_member_goes_on_with_every_topic(
        self, publisher: Publisher, join_all, topics: list[str]
    ) -> None:
        for topic in topics:
            publish(publisher, topic, slides=1, each=2)
        first = join_all()
        done = take(first)
        assert first.done(done)
        take(first)
        first.close()
        second = join_all()
        assert len(take_all(second, 5)) == 5
        assert second.next(0.3) is None
        assert second.lag() == 0
