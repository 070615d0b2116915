"""What every broker promises about records that are set aside; used like `BusSuite`."""

from __future__ import annotations

import dataclasses

import pytest
from bus_members import Member, members, new_name, number_of, publish, publishing, scanned
from bus_suite import SLIDES, find, lost_to_another, take, take_all
from waiting import until

from histgen_lib.bus import BusSettings, Publisher, Reason, _aside
from histgen_lib.events import DEAD_LETTER, DeadLettered

LONG_S, SOON_S = 3600.0, 0.3
"""Longer than any test, and a moment."""


class AsideSuite:
    """Behaviour that workers rely on while a dependency of some records is unavailable."""

    @pytest.fixture
    def narrow(self, settings: BusSettings, topic: str):
        """Publish to a topic with one partition."""
        with publishing(dataclasses.replace(settings, partitions=1)) as opened:
            yield opened

    def test_later_records_pass_one_that_is_set_aside(self, narrow: Publisher, join, topic: str) -> None:
        publish(narrow, topic, slides=3)
        subscription = join("g")
        assert subscription.defer(take(subscription), LONG_S)
        assert take_all(subscription, 2) == [("S1", 0), ("S2", 0)]
        assert subscription.next(0.3) is None

    def test_a_record_set_aside_comes_again_when_due(self, narrow: Publisher, join, topic: str) -> None:
        """To an otherwise idle member, and as often as it is set aside."""
        publish(narrow, topic, slides=1)
        subscription = join("g")
        for _ in range(3):
            delivery = take(subscription)
            assert number_of(delivery) == ("S0", 0)
            assert subscription.defer(delivery, SOON_S)
        assert take_all(subscription, 1) == [("S0", 0)]
        assert subscription.next(0.3) is None

    def test_a_long_wait_for_a_record_ends_when_one_is_due(self, narrow: Publisher, join, topic: str) -> None:
        publish(narrow, topic, slides=1)
        subscription = join("g")
        assert subscription.defer(take(subscription), SOON_S)
        until(lambda: subscription.next(LONG_S), 60, "the record that was set aside")

    def test_records_of_the_same_key_wait_and_come_in_order(
        self, narrow: Publisher, join, topic: str
    ) -> None:
        publish(narrow, topic, slides=2, each=4)
        subscription, taken = join("g"), []
        for _ in range(4):
            delivery = take(subscription)
            if number_of(delivery)[0] == "S0":
                assert subscription.defer(delivery, SOON_S)
            else:
                taken.append(number_of(delivery))
                assert subscription.done(delivery)
        taken += take_all(subscription, 8 - len(taken))
        for slide in ("S0", "S1"):
            assert [number for name, number in taken if name == slide] == list(range(4))

    def test_a_record_that_is_always_due_does_not_keep_new_ones_waiting(
        self, narrow: Publisher, join, topic: str
    ) -> None:
        publish(narrow, topic, slides=4)
        subscription, taken = join("g"), []
        while len(taken) < 3:
            delivery = take(subscription)
            if number_of(delivery) == ("S0", 0):
                assert subscription.defer(delivery, 0)
            else:
                taken.append(number_of(delivery))
                assert subscription.done(delivery)
        assert taken == [("S1", 0), ("S2", 0), ("S3", 0)]

    def test_nothing_is_committed_past_a_record_set_aside(self, narrow: Publisher, join, topic: str) -> None:
        """The next member gets it, and at worst also what follows it once more."""
        sent = publish(narrow, topic, slides=4)
        first = join("g")
        assert first.defer(take(first), LONG_S)
        take_all(first, 2)
        assert first.lag() == 4
        first.close()
        second = join("g")
        assert take_all(second, 4) == sent
        assert second.lag() == 0

    def test_records_finished_behind_it_are_committed_with_it(
        self, narrow: Publisher, join, topic: str
    ) -> None:
        publish(narrow, topic, slides=3)
        first = join("g")
        assert first.defer(take(first), SOON_S)
        assert sorted(take_all(first, 3)) == [("S0", 0), ("S1", 0), ("S2", 0)]
        assert first.lag() == 0
        first.close()
        narrow.publish(topic, "S9", scanned("S9"))
        assert take_all(join("g"), 1) == [("S9", 0)]

    def test_a_record_finished_behind_it_does_not_come_again_here(
        self, narrow: Publisher, join, topic: str
    ) -> None:
        """Even if the record set aside is delivered, released or set aside again."""
        sent = publish(narrow, topic, slides=3)
        subscription = join("g")
        assert subscription.defer(take(subscription), SOON_S)
        steps, finished = ["release", "defer", "done"], []
        while steps:
            delivery = take(subscription)
            step = steps.pop(0) if number_of(delivery) == ("S0", 0) else "done"
            if step == "release":
                subscription.release(delivery)
            elif step == "defer":
                assert subscription.defer(delivery, SOON_S)
            else:
                assert subscription.done(delivery)
                finished.append(number_of(delivery))
        finished += take_all(subscription, 3 - len(finished))
        assert sorted(finished) == sent
        assert subscription.next(0.3) is None
        assert subscription.lag() == 0

    def test_a_released_record_comes_before_those_aside_and_new_ones(
        self, narrow: Publisher, join, topic: str
    ) -> None:
        publish(narrow, topic, slides=3)
        subscription = join("g")
        assert subscription.defer(take(subscription), LONG_S)
        for _ in range(2):
            delivery = take(subscription)
            assert number_of(delivery) == ("S1", 0)
            subscription.release(delivery)
        assert take_all(subscription, 2) == [("S1", 0), ("S2", 0)]

    def test_a_record_behind_it_can_be_rejected(self, narrow: Publisher, join, topic: str) -> None:
        publish(narrow, topic, slides=3)
        subscription, letters = join("g"), join(new_name(), topic=DEAD_LETTER)
        assert subscription.defer(take(subscription), SOON_S)
        delivery = take(subscription)
        assert delivery.event is not None
        slide, _ = number_of(delivery)
        data = DeadLettered(slide, delivery.event.id, delivery.event.type, "slide-damaged", "dead-letter/x")
        letter = delivery.event.then(data, source="histgen/test", now=delivery.event.time)
        assert subscription.reject(delivery, Reason("slide-damaged", letter))
        assert find(letters, letter) == letter
        assert len(take_all(subscription, 2)) == 2
        assert subscription.lag() == 0

    def test_the_number_of_records_aside_is_limited(
        self, narrow: Publisher, join, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One too many stays in flight; those aside come again and may be set aside again."""
        monkeypatch.setattr(_aside, "ASIDE_MOST", 2)
        publish(narrow, topic, slides=4)
        subscription = join("g")
        again, long = take(subscription), LONG_S
        assert subscription.defer(again, SOON_S)
        assert subscription.defer(take(subscription), long)
        delivery = take(subscription)
        while number_of(delivery)[0] == "S0":
            assert subscription.defer(delivery, SOON_S)
            delivery = take(subscription)
        assert not subscription.defer(delivery, long)
        assert subscription.keep()
        assert subscription.done(delivery)
        assert subscription.lag() == 4

    def test_a_key_with_many_records_stops_its_partition_and_no_other(
        self, publisher: Publisher, join, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_aside, "HELD_MOST", 2)
        sent = publish(publisher, topic, slides=1, each=6)
        first, passed = join("g"), []
        held = take(first)
        assert first.defer(held, LONG_S)
        assert first.next(0.3) is None
        for number in range(1, SLIDES):
            publisher.publish(topic, f"S{number}", scanned(f"S{number}"))
        while len(passed) < SLIDES // 2:
            passed.append(take(first))
            assert first.done(passed[-1])
        assert held.partition not in {delivery.partition for delivery in passed}
        first.close()
        rest = take_all(join("g"), len(sent) + SLIDES - 1 - len(passed))
        assert [one for one in rest if one[0] == "S0"] == sent
        assert len({*rest, *map(number_of, passed)}) == len(sent) + SLIDES - 1

    def test_a_stopped_partition_goes_on_when_there_is_room(
        self, narrow: Publisher, join, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_aside, "HELD_MOST", 2)
        sent = publish(narrow, topic, slides=1, each=6)
        sent += [("S1", number) for number in range(3)]
        for number in range(3):
            narrow.publish(topic, "S1", scanned("S1", number))
        subscription = join("g")
        for _ in range(2):
            assert subscription.defer(take(subscription), SOON_S)
        assert sorted(take_all(subscription, len(sent))) == sorted(sent)
        assert subscription.next(0.3) is None
        assert subscription.lag() == 0

    def test_a_newcomer_gets_its_share_and_finally_all_records_set_aside(
        self, settings: BusSettings, publisher: Publisher, join, topic: str
    ) -> None:
        """Partitions with records aside change hands like others: nobody works on those records."""
        sent = publish(publisher, topic, slides=SLIDES)
        old, new = join("g"), Member(settings, topic, f"g-{topic}")
        for _ in sent:
            assert old.defer(take(old), LONG_S)
        with members(new):
            while len(new.finished) < SLIDES // 4:
                assert old.next(0.1) is None
            old.close()
            until(lambda: len(new.finished) == len(sent), 60, "all records finished")
        assert sorted(new.finished) == sorted(sent)
        assert new.refused == []

    def test_a_record_that_is_no_longer_ours_cannot_be_set_aside(
        self, hasty: BusSettings, publisher: Publisher, join, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nor does it need room: nothing is in flight here."""
        away, delivery = lost_to_another(hasty, publisher, join, topic)
        assert not away.keep()
        monkeypatch.setattr(_aside, "ASIDE_MOST", 0)
        assert away.defer(delivery, 0)
        publisher.publish(topic, "S0", scanned("S0", 2))
        assert take_all(away, 1) == [("S0", 2)]
