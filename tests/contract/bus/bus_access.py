"""Whether a broker admits a client, and how it refuses one."""

from __future__ import annotations

import pytest
from bus_members import new_name, publish, publishing, scanned
from waiting import until

from histgen_lib.bus import BusSettings, open_subscription
from histgen_lib.errors import HistgenError


def assert_serves(settings: BusSettings) -> None:
    """Check that a record can be published and read back."""
    topic = new_name()
    with publishing(settings) as publisher:
        publish(publisher, topic, slides=1)
    subscription = open_subscription(settings, topic, topic)
    delivery = until(lambda: subscription.next(0.2), 60, "the record")
    assert subscription.done(delivery)
    subscription.close()


def failure(settings: BusSettings) -> HistgenError:
    """Return the error that publishing raises."""
    with publishing(settings) as publisher, pytest.raises(HistgenError) as caught:
        publisher.publish(new_name(), "S0", scanned("S0"))
    return caught.value
