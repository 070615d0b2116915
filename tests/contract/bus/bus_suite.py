"""What every broker promises.

A broker's test module subclasses `BusSuite` and provides the fixtures `settings`, and `hasty` with limits of
a second or two. Tests that must stay within the limits use wide ones: a busy machine may pause for seconds.
"""

from __future__ import annotations

import dataclasses
import time

import pytest
from bus_members import (
    Member,
    member_process,
    members,
    new_name,
    number_of,
    publish,
    scanned,
)
from waiting import until

from histgen_lib.bus import BusSettings, Delivery, Publisher, Reason, Subscription
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import DEAD_LETTER, DeadLettered, Event

SLIDES = 24
"""Enough slides that each of 12 partitions is likely to have one."""


def take(subscription: Subscription, timeout_s: float = 15) -> Delivery:
    """Wait for a record."""
    return until(lambda: subscription.next(0.2), timeout_s, "a record")


def take_all(subscription: Subscription, count: int) -> list[tuple[str, int]]:
    """Take and finish `count` records."""
    taken = []
    for _ in range(count):
        delivery = take(subscription)
        taken.append(number_of(delivery))
        assert subscription.done(delivery)
    return taken


def lost_to_another(
    hasty: BusSettings, publisher: Publisher, join, topic: str
) -> tuple[Subscription, Delivery]:
    """Take a record, then fall silent until another member has finished it and the next one."""
    publish(publisher, topic, slides=1, each=2)
    away = join("g", settings=hasty)
    delivery = take(away)
    other = Member(hasty, topic, f"g-{topic}")
    with members(other):
        until(lambda: len(other.finished) == 2, 60, "the other to finish both")
    return away, delivery


class BusSuite:
    """Behaviour that workers rely on."""

    def test_an_event_arrives_as_it_was_published(self, publisher: Publisher, join, topic: str) -> None:
        event = scanned("S-1").then(scanned("S-1").data, source="histgen/test", now=scanned("S-1").time)
        publisher.publish(topic, event.key, event)
        delivery = take(join("g"))
        assert (delivery.topic, delivery.event, delivery.unreadable) == (topic, event, None)
        assert delivery.raw == event.body()
        assert delivery.position == f"{topic}/{delivery.partition}/{delivery.offset}"

    def test_events_published_before_the_group_existed_arrive(
        self, publisher: Publisher, join, topic: str
    ) -> None:
        sent = publish(publisher, topic, slides=3)
        assert sorted(take_all(join("late"), 3)) == sorted(sent)

    def test_events_of_a_slide_arrive_in_order(self, publisher: Publisher, join, topic: str) -> None:
        publish(publisher, topic, slides=3, each=8)
        taken = take_all(join("g"), 24)
        for slide in {name for name, _ in taken}:
            assert [number for name, number in taken if name == slide] == list(range(8))

    def test_only_one_record_is_in_flight(self, publisher: Publisher, join, topic: str) -> None:
        publish(publisher, topic, slides=2)
        subscription = join("g")
        first = take(subscription)
        with pytest.raises(ValueError, match="in flight"):
            subscription.next(0)
        assert subscription.keep()
        assert subscription.done(first)
        assert number_of(take(subscription)) != number_of(first)

    def test_nothing_more_comes_when_all_is_done(self, publisher: Publisher, join, topic: str) -> None:
        publish(publisher, topic, slides=2)
        subscription = join("g")
        take_all(subscription, 2)
        assert subscription.next(0.3) is None

    def test_an_unfinished_record_comes_again_to_the_next_member(
        self, publisher: Publisher, join, topic: str
    ) -> None:
        publish(publisher, topic, slides=1, each=2)
        for _ in range(2):
            subscription = join("g")
            assert number_of(take(subscription)) == ("S0", 0)
            subscription.close()

    def test_a_finished_record_never_comes_again(self, publisher: Publisher, join, topic: str) -> None:
        publish(publisher, topic, slides=1, each=3)
        first = join("g")
        take_all(first, 2)
        first.close()
        assert take_all(join("g"), 1) == [("S0", 2)]

    def test_a_released_record_comes_again_before_what_follows(
        self, publisher: Publisher, join, topic: str
    ) -> None:
        publish(publisher, topic, slides=1, each=2)
        subscription = join("g")
        subscription.release(take(subscription))
        assert take_all(subscription, 2) == [("S0", 0), ("S0", 1)]

    def test_a_record_is_committed_only_once(self, publisher: Publisher, join, topic: str) -> None:
        publish(publisher, topic, slides=1)
        subscription = join("g")
        delivery = take(subscription)
        assert subscription.done(delivery)
        assert not subscription.done(delivery)

    def test_groups_do_not_disturb_each_other(self, publisher: Publisher, join, topic: str) -> None:
        sent = publish(publisher, topic, slides=4)
        assert sorted(take_all(join("one"), 4)) == sorted(take_all(join("two"), 4)) == sorted(sent)

    def test_reject_publishes_the_letter_and_commits(self, publisher: Publisher, join, topic: str) -> None:
        publish(publisher, topic, slides=1, each=2)
        subscription, letters = join("g"), join(new_name(), topic=DEAD_LETTER)
        delivery = take(subscription)
        assert delivery.event is not None
        data = DeadLettered("S0", delivery.event.id, delivery.event.type, "slide-damaged", "dead-letter/x")
        letter = delivery.event.then(data, source="histgen/test", now=delivery.event.time)
        assert subscription.reject(delivery, Reason("slide-damaged", letter))
        assert take_all(subscription, 1) == [("S0", 1)]
        assert find(letters, letter) == letter

    def test_a_record_that_is_not_an_event_is_delivered_with_the_reason(
        self, publisher: Publisher, join, topic: str
    ) -> None:
        publisher.publish_raw(topic, "S0", b"\xff not json")
        publisher.publish(topic, "S0", scanned("S0"))
        subscription = join("g")
        delivery = take(subscription)
        assert (delivery.event, delivery.raw) == (None, b"\xff not json")
        assert isinstance(delivery.unreadable, InvalidInputError)
        assert subscription.done(delivery)
        assert take_all(subscription, 1) == [("S0", 0)]

    def test_an_event_too_large_for_any_broker_is_refused_by_each(
        self, publisher: Publisher, topic: str
    ) -> None:
        with pytest.raises(InvalidInputError) as caught:
            publisher.publish_raw(topic, "S0", bytes(1_000_000))
        assert caught.value.code == "event-too-large"

    def test_lag_counts_unfinished_records(self, publisher: Publisher, join, topic: str) -> None:
        publish(publisher, topic, slides=5, each=2)
        subscription = join("g")
        first = take(subscription)
        assert subscription.lag() == 10
        assert subscription.done(first)
        assert subscription.lag() == 9
        take_all(subscription, 9)
        assert subscription.lag() == 0

    def test_two_members_share_the_records(
        self, settings: BusSettings, publisher: Publisher, topic: str
    ) -> None:
        sent = publish(publisher, topic, slides=SLIDES, each=3)
        one, two = Member(settings, topic, topic), Member(settings, topic, topic)
        with members(one, two):
            until(lambda: len(one.finished + two.finished) == len(sent), 60, "all records finished")
            publish(publisher, topic, slides=SLIDES)
            more = len(sent) + SLIDES
            until(lambda: len(one.finished + two.finished) == more, 60, "the second lot finished")
        assert set(one.finished + two.finished) == set(sent)
        assert one.refused == two.refused == []

    def test_a_newcomer_gets_its_share_while_the_other_works_on(
        self, settings: BusSettings, publisher: Publisher, topic: str
    ) -> None:
        """It comes within seconds; the other keeps what it has in flight, which is delivered once."""
        sent = publish(publisher, topic, slides=SLIDES)
        old, new = Member(settings, topic, topic, holding=True), Member(settings, topic, topic)
        with members(old):
            until(lambda: old.took, 60, "the first record")
            with members(new):
                until(lambda: len(new.finished) >= SLIDES // 4, 60, "the newcomer's share")
                held = old.took[0]
                assert old.took == [held]
                old.holding.clear()
                everything = len(sent)
                until(lambda: len(old.finished + new.finished) == everything, 60, "everything finished")
        assert sorted(old.finished + new.finished) == sorted(sent)
        assert sorted(old.took + new.took) == sorted(sent)
        assert held in old.finished
        assert all(old.kept)

    def test_the_records_of_a_leaving_member_are_taken_over(
        self, settings: BusSettings, publisher: Publisher, topic: str
    ) -> None:
        sent = publish(publisher, topic, slides=SLIDES)
        leaver, stayer = Member(settings, topic, topic, holding=True), Member(settings, topic, topic)
        with members(leaver):
            until(lambda: leaver.took, 60, "the first record")
            with members(stayer):
                until(lambda: len(stayer.finished) >= SLIDES // 4, 60, "the stayer's share")
                leaver.leave()
                until(lambda: len(stayer.finished) == len(sent), 60, "the rest")
        assert sorted(stayer.finished) == sorted(sent)

    def test_a_killed_member_is_replaced(self, hasty: BusSettings, publisher: Publisher, topic: str) -> None:
        """It runs in its own process and is killed with a record in flight."""
        sent = publish(publisher, topic, slides=SLIDES)
        survivor = Member(hasty, topic, topic)
        with member_process(hasty, topic, topic, holding=True) as (process, news):
            held = news.recv()
            with members(survivor):
                until(lambda: len(survivor.finished) >= SLIDES // 4, 60, "the survivor's share")
                assert held not in survivor.finished
                process.kill()
                until(lambda: len(survivor.finished) == len(sent), 60, "all records finished")
        assert sorted(survivor.finished) == sorted(sent)

    def test_a_job_longer_than_all_limits_is_delivered_once(
        self, hasty: BusSettings, publisher: Publisher, topic: str
    ) -> None:
        """Another member is waiting to take it over."""
        publish(publisher, topic, slides=1, each=2)
        busy, idle = Member(hasty, topic, topic, holding=True), Member(hasty, topic, topic)
        with members(busy):
            until(lambda: busy.took, 60, "the record")
            with members(idle):
                enough = time.monotonic() + 2.2 * hasty.session_s
                until(lambda: time.monotonic() > enough, 60, "two sessions over")
                busy.holding.clear()
                until(lambda: busy.finished, 60, "the job finished")
                until(lambda: len(busy.finished + idle.finished) == 2, 60, "the next one, too")
        assert busy.took + idle.took == [("S0", 0), ("S0", 1)]
        assert all(busy.kept)

    def test_a_member_that_was_silent_too_long_notices_and_commits_nothing(
        self, hasty: BusSettings, publisher: Publisher, topic: str
    ) -> None:
        """Its record went to another member, which finishes it."""
        publish(publisher, topic, slides=1, each=2)
        away, other = (
            Member(hasty, topic, topic, holding=True),
            Member(hasty, topic, topic, holding=True),
        )
        with members(away):
            until(lambda: away.took, 60, "the record")
            away.stalled.set()
            with members(other):
                until(lambda: other.took, 60, "the other to have it")
                away.stalled.clear()
                until(lambda: away.kept and not away.kept[-1], 60, "the news that it is lost")
                away.holding.clear()
                until(lambda: away.refused, 60, "the commit refused")
                assert (away.finished, other.finished) == ([], [])
                other.holding.clear()
                until(lambda: len(other.finished + away.finished) == 2, 60, "both finished")
        assert other.took[0] == away.took[0] == ("S0", 0)
        assert ("S0", 0) in other.finished

    def test_a_record_that_another_member_finished_is_not_finished_twice(
        self, hasty: BusSettings, publisher: Publisher, topic: str
    ) -> None:
        """Not even after the partition has come back to the member that was silent."""
        publish(publisher, topic, slides=1, each=2)
        away, other = Member(hasty, topic, topic, holding=True), Member(hasty, topic, topic)
        with members(away):
            until(lambda: away.took, 60, "the record")
            away.stalled.set()
            with members(other):
                until(lambda: len(other.finished) == 2, 60, "the other to finish both")
            away.stalled.clear()
            away.holding.clear()
            until(lambda: away.refused, 60, "the commit refused")
            publisher.publish(topic, "S0", scanned("S0", 2))
            until(lambda: away.finished, 60, "the next one finished")
        assert away.took == [("S0", 0), ("S0", 2)]

    def test_releasing_a_record_that_another_finished_does_not_bring_it_back(
        self, hasty: BusSettings, publisher: Publisher, join, topic: str
    ) -> None:
        away, delivery = lost_to_another(hasty, publisher, join, topic)
        away.release(delivery)
        publisher.publish(topic, "S0", scanned("S0", 2))
        assert take_all(away, 1) == [("S0", 2)]

    def test_sessions_of_different_length_do_not_disturb_each_other(
        self, hasty: BusSettings, publisher: Publisher, topic: str
    ) -> None:
        patient = dataclasses.replace(hasty, session_s=10 * hasty.session_s)
        sent = publish(publisher, topic, slides=SLIDES)
        one, two = Member(hasty, topic, topic), Member(patient, topic, topic)
        with members(one, two):
            until(lambda: len(one.finished + two.finished) == len(sent), 60, "all records finished")
        assert sorted(one.finished + two.finished) == sorted(sent)


def find(letters: Subscription, event: Event) -> Event:
    """Read until an event arrives, skipping those of other tests."""
    while True:
        delivery = take(letters)
        assert letters.done(delivery)
        if delivery.event is not None and delivery.event.id == event.id:
            return delivery.event
