"""Who waits for what: a slide's own trouble holds up no other, and what all need is not asked for in turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from worker_fakes import BUS_AWAY, STORE_AWAY, World, delivery, scanned

from histgen_lib.bus import Delivery
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.events import Event
from histgen_lib.runtime.pulse import Backoff
from histgen_lib.telemetry import metrics
from histgen_lib.worker.failures import CRASHED, JobFailedError
from histgen_lib.worker.handler import Outcome
from histgen_lib.worker.retries import LAST, LATE_S, MOST_S, TURN
from histgen_lib.worker.task import Task, Worker

AWAY = TransientError("inference-unavailable", "The model server is away.")
BUCKET_AWAY = TransientError("slide-away", "The bucket is away.")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def worker(world: World, clock: Clock) -> Worker:
    """With room for records aside, and waits that double from a second up."""
    world.bus.room = 10_000
    worker = world.worker()
    worker.board.clock = clock
    worker.retries.backoff = Backoff(2, 60)
    return worker


def at(slide_id: str, uri: str = "") -> Event:
    event = scanned(slide_id)
    return replace(event, data=replace(event.data, uri=uri or event.data.uri))


def work(worker: Worker, event: Event, offset: int = 0) -> None:
    """Take a record and work on it, as the loop does."""
    taken: Delivery = delivery(event, offset)
    worker.retries.delivered(taken.position)
    worker.board.take(event)
    Task(worker, taken, event).run()
    worker.attempts.sweep()
    worker.retries.left(taken.position)
    worker.board.drop()


def aside(worker: Worker) -> dict[str, Any]:
    return worker.board.status()["set_aside"]


def test_a_record_that_fails_is_set_aside_uncounted_and_not_ended(world: World, worker: Worker):
    world.runner.results = [AWAY]
    work(worker, at("S1"))
    assert world.bus.ended == []
    assert world.store.objects == {}
    ((position, delay_s),) = world.bus.deferred
    assert position == "slide.scanned/0/0"
    assert 1 <= delay_s <= 2
    assert worker.board.missing["job"] == "inference-unavailable"


def test_its_delays_grow_from_try_to_try(world: World, worker: Worker, clock: Clock):
    world.runner.results = [BUCKET_AWAY] * 6
    for _ in range(6):
        clock.now += 100
        work(worker, at("S1"))
    delays = [delay_s for _, delay_s in world.bus.deferred]
    limits = [2, 4, 8, 16, 32, 60]
    assert all(most / 2 <= delay <= LAST * most for delay, most in zip(delays, limits, strict=True))


def test_a_server_with_which_another_record_got_through_is_not_missing(world: World, worker: Worker):
    world.runner.results = [AWAY]
    work(worker, at("S1"))
    work(worker, at("S2"), 1)
    assert "job" not in worker.board.missing
    assert world.bus.ended == ["done"]
    assert aside(worker)["codes"] == {"inference-unavailable": 1}


def test_after_a_second_record_failed_alike_the_server_is_waited_for_in_hand(world: World, worker: Worker):
    """An outage of what all need: two records are tried, not all of them round and round."""
    worker.retries.backoff = Backoff(0, 0)
    world.runner.results = [AWAY] * TURN
    work(worker, at("S1"))
    work(worker, at("S2"), 1)
    assert [position for position, _ in world.bus.deferred] == ["slide.scanned/0/0"]
    assert len(world.runner.handled) == TURN + 1
    assert world.bus.ended == ["done"]
    work(worker, at("S1"))
    assert world.bus.ended == ["done", "done"]
    assert aside(worker)["count"] == 0


def test_two_records_with_the_same_failure_hold_up_the_others_for_a_while_only(world: World, worker: Worker):
    """Two objects that the store cannot read look like a store that is away."""
    worker.retries.backoff = Backoff(0, 0)
    world.runner.results = [STORE_AWAY] * (TURN + 1)
    for offset, slide_id in enumerate(("S1", "S2", "S3")):
        work(worker, at(slide_id), offset)
    assert [position for position, _ in world.bus.deferred] == ["slide.scanned/0/0", "slide.scanned/0/1"]
    assert world.bus.ended == ["done"]


def test_while_all_records_wait_each_try_is_followed_by_a_pause(world: World, worker: Worker):
    """Whichever record it is: an outage is asked about as often as if there were one record."""
    worker.retries.backoff = Backoff(0, 0)
    pauses: list[str] = []
    pause = worker.pulse.pause
    worker.pulse.pause = lambda seconds: (pauses.append(""), pause(seconds))[1]
    world.runner.results = [STORE_AWAY] * 200
    for offset in range(10):
        work(worker, at(f"S{offset}"), offset)
    assert len(pauses) == len(world.runner.handled) - 1


def test_after_another_record_got_through_a_failure_is_the_records_own_again(world: World, worker: Worker):
    world.runner.results = [AWAY, None, AWAY, None, AWAY]
    for offset in range(5):
        work(worker, at(f"S{offset}"), offset)
    assert [position for position, _ in world.bus.deferred] == [f"slide.scanned/0/{n}" for n in (0, 2, 4)]


def test_a_record_that_cannot_be_set_aside_waits_in_hand(world: World, worker: Worker):
    worker.retries.backoff = Backoff(0, 0)
    world.bus.room = 0
    world.runner.results = [BUCKET_AWAY] * 20
    work(worker, at("S1"))
    assert world.runner.handled == [1] * 21
    assert world.bus.ended == ["done"]
    assert aside(worker)["count"] == 0


def test_slides_of_a_bucket_that_is_away_are_not_all_tried(world: World, worker: Worker, clock: Clock):
    """To find out that a server does not answer takes long."""
    world.runner.results = [BUCKET_AWAY]
    for offset in range(20):
        work(worker, at(f"S{offset}", f"s3://lab/{offset}/a.svs"), offset)
    work(worker, at("other", "s3://archive/a.svs"), 20)
    work(worker, at("file"), 21)
    assert len(world.runner.handled) == 3
    assert world.bus.ended == ["done", "done"]
    assert aside(worker)["count"] == 20
    assert "job" not in worker.board.missing


def test_a_bucket_that_is_away_is_tried_ever_more_rarely_and_with_one_slide_at_a_time(
    world: World, worker: Worker, clock: Clock
):
    world.runner.results = [BUCKET_AWAY] * 99
    for second in range(600):
        clock.now = float(second)
        work(worker, at(f"S{second % 50}", f"s3://lab/{second % 50}.svs"), second % 50)
    assert 10 <= len(world.runner.handled) <= 25


@pytest.mark.parametrize(("took_s", "least_s"), [(0.0, 2), (40.0, 120), (4000.0, MOST_S)])
def test_a_place_that_is_slow_to_fail_is_tried_more_rarely(worker: Worker, took_s: float, least_s: float):
    """Else asking it would take up the worker's time. The first time it may be one slide's own trouble."""
    event = at("S1")
    delays = [worker.retries.delay_s(delivery(event, n), event, BUCKET_AWAY, took_s) for n in range(2)]
    assert delays[0] <= 2.5
    assert least_s <= delays[1] <= max(5, LAST * least_s)
    assert worker.retries.delay_s(delivery(event, 2), event, AWAY, took_s) <= 2


def test_a_single_slide_that_cannot_be_had_holds_up_no_other_of_its_bucket(
    world: World, worker: Worker, clock: Clock
):
    """It is tried for hours; those that come meanwhile are done within seconds."""
    tries: list[float] = []

    def handle(event: Event, attempt: int) -> Outcome:
        if event.key != "bad":
            return Outcome()
        tries.append(clock.now)
        clock.now += 40
        raise BUCKET_AWAY

    world.runner.handle = handle
    events = {0: at("bad", "s3://lab/bad.svs")} | {n: at(f"S{n}", f"s3://lab/{n}.svs") for n in range(1, 40)}
    came: dict[str, float] = {}
    for number, event in events.items():
        came[event.key] = clock.now = max(clock.now, 1000.0 + 60 * number)
        work(worker, event, number)
        while worker.board.aside.keys() - {"slide.scanned/0/0"}:
            place, waiting = min(worker.board.aside.items(), key=lambda one: one[1].due_at)
            clock.now = max(clock.now, waiting.due_at)
            work(worker, events[int(place.rpartition("/")[2])], int(place.rpartition("/")[2]))
        assert clock.now - came[event.key] <= 50 or number == 0
        if worker.board.aside["slide.scanned/0/0"].due_at <= clock.now:
            work(worker, events[0], 0)
    assert len(tries) > 10
    assert len(world.bus.ended) == 39


def test_slides_of_a_bucket_that_is_back_are_all_tried(world: World, worker: Worker, clock: Clock):
    world.runner.results = [BUCKET_AWAY]
    for now in (1000.0, 1010.0):
        clock.now = now
        for offset in range(9):
            work(worker, at(f"S{offset}", f"s3://lab/{offset}.svs"), offset)
    assert world.bus.ended == ["done"] * 9
    assert aside(worker)["count"] == 0


def test_a_slide_that_crashes_lets_others_pass_between_its_attempts(world: World, worker: Worker):
    world.runner.results = [JobFailedError(CRASHED), None, JobFailedError(CRASHED), JobFailedError(CRASHED)]
    for slide_id, offset in (("S1", 0), ("S2", 1), ("S1", 0), ("S1", 0)):
        work(worker, at(slide_id), offset)
    assert world.runner.handled == [1, 1, 2, 3]
    assert world.bus.ended == ["done", "reject"]
    assert [reason.code for reason in world.bus.rejected] == ["job-crashed"]
    assert aside(worker)["count"] == 0


def test_crashes_of_several_slides_are_not_taken_for_an_outage(world: World, worker: Worker):
    world.runner.results = [JobFailedError(CRASHED)] * 5
    for offset in range(5):
        work(worker, at(f"S{offset}"), offset)
    assert len(world.bus.deferred) == 5


def test_a_search_for_objects_that_fails_after_the_letter_is_repeated_when_the_record_comes_again(
    world: World, worker: Worker, clock: Clock
):
    """The slide's share is away just then: that must not hold up others either."""
    world.runner.results = [InvalidInputError("slide-damaged", "It is damaged.")]
    world.runner.on_find = [None, BUCKET_AWAY]
    work(worker, at("S1"))
    assert len(world.bus.deferred) == 1
    clock.now += 100
    work(worker, at("S1"))
    assert world.bus.ended == ["reject"]
    assert world.runner.handled == [1]


def test_a_broker_outage_while_a_record_is_set_aside_is_waited_out(world: World, worker: Worker):
    world.bus.fail("defer", BUS_AWAY, BUS_AWAY)
    world.runner.results = [STORE_AWAY]
    work(worker, at("S1"))
    assert len(world.bus.deferred) == 1
    assert aside(worker)["codes"] == {"storage-unavailable": 1}


def test_a_record_overdue_while_none_comes_went_to_another_member(world: World, worker: Worker, clock: Clock):
    world.runner.results = [BUCKET_AWAY]
    work(worker, at("S1"))
    clock.now += 2
    worker.retries.delivered(None)
    assert aside(worker)["count"] == 1
    clock.now += LATE_S + 1
    worker.retries.delivered("slide.scanned/0/7")  # its turn
    assert aside(worker)["count"] == 1
    worker.retries.delivered(None)
    assert aside(worker)["count"] == 0


def test_a_record_that_was_lost_before_it_was_set_aside_is_not_shown(world: World, worker: Worker):
    world.bus.ours = False
    worker.pulse.beat()
    world.runner.results = [BUCKET_AWAY]
    work(worker, at("S1"))
    assert len(world.bus.deferred) == 1
    assert aside(worker)["count"] == 0


def test_the_return_of_one_record_says_nothing_about_others(world: World, worker: Worker, clock: Clock):
    world.runner.results = [BUCKET_AWAY] * 9
    for offset in range(3):
        work(worker, at(f"S{offset}", f"file:///{offset}/a.svs"), offset)
    clock.now += 100
    work(worker, at("S0", "file:///0/a.svs"), 0)
    assert aside(worker)["count"] == 3


def test_status_shows_what_waits_why_and_for_how_long(world: World, worker: Worker, clock: Clock):
    world.runner.results = [BUCKET_AWAY, BUCKET_AWAY]
    work(worker, at("S1"))
    clock.now += 100
    work(worker, at("S1"))
    clock.now += 0.5
    shown = aside(worker)
    assert (shown["count"], shown["codes"]) == (1, {"slide-away": 1})
    (first,) = shown["first"]
    assert (first["slide_id"], first["code"], first["tries"]) == ("S1", "slide-away", 2)
    assert first["seconds"] == 100.5
    assert 0 <= first["due_s"] <= 30
    assert (_gauge("histgen_set_aside"), _gauge("histgen_set_aside_oldest_seconds")) == (1, 100.5)


def test_a_slide_that_was_set_aside_is_unfinished(world: World, worker: Worker):
    world.runner.results = [BUCKET_AWAY]
    work(worker, at("S1"))
    scanned_at = scanned().scanned_at
    worker.board.now = lambda: scanned_at.replace(minute=scanned_at.minute + 5)
    assert _gauge("histgen_oldest_unfinished_seconds") == 300


def _gauge(name: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, {"worker": "w"})
