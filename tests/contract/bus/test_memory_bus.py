"""The broker in memory keeps the promises of a bus."""

from __future__ import annotations

import dataclasses

import pytest
from bus_aside_suite import AsideSuite
from bus_backlog_suite import BacklogSuite
from bus_members import BesideInMemory, InMemory, Member, members, publish, scanned
from bus_several_suite import SeveralSuite
from bus_suite import SLIDES, BusSuite, take
from waiting import until

from histgen_lib.bus import BusSettings, Publisher
from histgen_lib.errors import TransientError
from histgen_lib.events import SLIDE_SCANNED
from histgen_lib.testing import MemoryBus


@pytest.fixture
def settings() -> BusSettings:
    return InMemory("memory:")


@pytest.fixture
def hasty(settings: BusSettings) -> BusSettings:
    return dataclasses.replace(settings, session_s=1.5)


class TestMemoryBus(BusSuite):
    """The shared suite."""

    def test_a_killed_member_is_replaced(self, hasty: BusSettings, publisher: Publisher, topic: str) -> None:
        """A member in this process cannot be killed: it falls silent instead."""
        sent = publish(publisher, topic, slides=SLIDES)
        dead, survivor = Member(hasty, topic, topic, holding=True), Member(hasty, topic, topic)
        with members(dead):
            until(lambda: dead.took, 60, "the first record")
            dead.stalled.set()
            with members(survivor):
                until(lambda: len(survivor.finished) == len(sent), 60, "all records finished")
        assert sorted(survivor.finished) == sorted(sent)


class TestMemoryAside(AsideSuite):
    """The shared suite."""


class TestMemoryBesideBus(TestMemoryBus):
    """The shared suite, by members that have another topic beside."""

    @pytest.fixture
    def settings(self) -> BusSettings:
        return BesideInMemory("memory:")


class TestMemoryBesideAside(AsideSuite):
    """The shared suite, by such members."""

    @pytest.fixture
    def settings(self) -> BusSettings:
        return BesideInMemory("memory:")


class TestMemorySeveral(SeveralSuite):
    """The shared suite."""


class TestMemoryBacklog(BacklogSuite):
    """The shared suite."""


def test_it_remembers_published_events() -> None:
    bus, event = MemoryBus(), scanned("S0")
    bus.publish(SLIDE_SCANNED, event.key, event)
    assert bus.published == [event]


def test_it_can_simulate_an_outage() -> None:
    bus, event = MemoryBus(), scanned("S0")
    subscription = bus.subscribe(SLIDE_SCANNED, "g")
    bus.error = TransientError("bus-unavailable", "The broker is away.")
    for call in (lambda: bus.publish(SLIDE_SCANNED, event.key, event), lambda: subscription.next(0)):
        with pytest.raises(TransientError):
            call()
    bus.error = None
    bus.publish(SLIDE_SCANNED, event.key, event)
    assert take(subscription).event == event
