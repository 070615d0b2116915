"""The gateway shows what waits for workers that do not run, and nothing while the broker does not say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from gateway_fakes import context, running
from waiting import until

from histgen_lib.bus import Waiting
from histgen_lib.errors import FatalError, TransientError
from histgen_lib.events import SLIDE_SCANNED, Event, SlideScanned
from histgen_lib.runtime.stopping import Stop
from histgen_lib.telemetry import metrics
from histgen_lib.testing import MemoryBus
from services.gateway.backlog import BacklogWatch
from services.table import SERVICES

WORKERS = [row for row in SERVICES if row.takes]
NOW = datetime(2026, 1, 2, tzinfo=UTC)


@contextmanager
def watch(bus: MemoryBus) -> Iterator[BacklogWatch]:
    stop = Stop()
    later = (NOW + timedelta(seconds=90)).timestamp()
    loop = BacklogWatch(context(stop), bus.backlog, WORKERS, look_s=0.01, now=lambda: later)
    with running(loop, stop):
        yield loop


def value(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(f"histgen_backlog_{name}", labels)


def announce(bus: MemoryBus, slide: str, *, before_s: float = 0) -> None:
    data = SlideScanned(slide, f"file:///{slide}.svs", "c" * 64, 10)
    now = NOW - timedelta(seconds=before_s)
    bus.publish(SLIDE_SCANNED, slide, Event.first(data, source="/t", now=now, identity=slide))


def test_what_waits_for_each_worker_is_shown_while_none_runs():
    bus = MemoryBus(partitions=3)
    for number in range(4):
        announce(bus, f"S{number}", before_s=3 - number)
    with watch(bus):
        until(lambda: value("records", worker="tiler") == 4, 60, "four slides wait")
        assert value("records", worker="reporter") == 0
        assert value("oldest_seconds", worker="tiler") == pytest.approx(93)
        assert value("oldest_seconds", worker="reporter") == 0
        parts = [value("partition_records", worker="tiler", partition=str(part)) for part in range(3)]
        assert sum(parts) == 4


def test_a_finished_record_waits_no_more():
    bus = MemoryBus(partitions=1)
    announce(bus, "S0", before_s=60)
    announce(bus, "S1")
    worker = bus.subscribe(SLIDE_SCANNED, "histgen-tiler")
    with watch(bus):
        until(lambda: value("oldest_seconds", worker="tiler") == pytest.approx(150), 60, "the first one")
        worker.done(worker.next(0))
        until(lambda: value("records", worker="tiler") == 1, 60, "one is finished")
        assert value("oldest_seconds", worker="tiler") == pytest.approx(90)


@pytest.mark.parametrize(
    "error", [TransientError("bus-unavailable", "Away."), FatalError("bus-refused", "No.")]
)
def test_while_the_broker_does_not_answer_nothing_is_shown_and_the_gateway_goes_on(error, caplog):
    bus = MemoryBus(partitions=1)
    announce(bus, "S0")
    with watch(bus) as loop:
        until(lambda: value("records", worker="tiler") == 1, 60, "a record waits")
        bus.error = error
        until(lambda: value("records", worker="tiler") is None, 60, "nothing is shown")
        assert value("oldest_seconds", worker="tiler") is None
        assert value("partition_records", worker="tiler", partition="0") is None
        assert "backlog" not in loop._board.missing
        bus.error = None
        until(lambda: value("records", worker="tiler") == 1, 60, "it is shown again")
    assert value("records", worker="tiler") is None


def test_an_age_that_nobody_knows_is_none_rather_than_zero():
    class Silent:
        def waiting(self, topic: str, group: str) -> dict[int, Waiting]:
            return {0: Waiting(2, None)}

        def close(self) -> None:
            pass

    stop = Stop()
    with running(BacklogWatch(context(stop), Silent, WORKERS, look_s=0.01), stop):
        until(lambda: value("records", worker="tiler") == 2, 60, "records wait")
        assert math.isnan(value("oldest_seconds", worker="tiler"))


def test_a_partition_that_is_gone_is_shown_no_more():
    metrics.show_backlog("w", {0: 1, 1: 2}, 3.0)
    metrics.show_backlog("w", {0: 1}, 3.0)

    assert value("partition_records", worker="w", partition="0") == 1
    assert value("partition_records", worker="w", partition="1") is None
