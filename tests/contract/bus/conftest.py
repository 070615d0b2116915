"""Fixtures of the bus contract; each broker's test module provides `settings`."""

from __future__ import annotations

import pytest
from bus_members import new_name, publishing, subscribe

from histgen_lib.bus import BusSettings, Subscription


@pytest.fixture
def topic() -> str:
    return new_name()


@pytest.fixture
def publisher(settings: BusSettings):
    with publishing(settings) as opened:
        yield opened


@pytest.fixture
def join(settings: BusSettings, topic: str):
    """Return a function that opens subscriptions; they are closed at the end."""
    opened: list[Subscription] = []

    def join(group: str, topic: str = topic, settings: BusSettings = settings) -> Subscription:
        opened.append(subscribe(settings, topic, f"{group}-{topic}"))
        return opened[-1]

    yield join
    for subscription in opened:
        subscription.close()
