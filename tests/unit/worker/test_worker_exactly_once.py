"""One object or one letter, never both and never neither, wherever a worker is killed, cut off or overtaken.

Each test plays a record's whole course again and again; each time something happens at a later step of it,
before or after the step took effect. Every request to broker, store and child is a step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from worker_fakes import EVENT, LETTER, FailingBus, FailingStore, FakeRunner, World, drafted, work

from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.worker.attempts import Attempts
from histgen_lib.worker.failures import CRASHED, JobFailedError
from histgen_lib.worker.task import Worker

ENDS = {
    "good": lambda: [],
    "bad": lambda: [InvalidInputError("slide-damaged", "It is damaged.")] * 9,
    "poison": lambda: [JobFailedError(CRASHED)] * 9,
    "crashes once": lambda: [JobFailedError(CRASHED)],
    "outage": lambda: [TransientError("inference-unavailable", "Away.")] * 3,
}
GOOD = ("good", "crashes once", "outage")


class KilledError(BaseException):
    """The process is gone: nothing of it goes on, not even what catches exceptions."""


class Steps:
    """Counts steps; at step `at`, before or after its effect, calls `then` once."""

    def __init__(self, at: int, after: bool, then: Callable[[], None]) -> None:
        self.count, self._at, self._after, self._then = 0, at, after, then
        self._lock = threading.Lock()

    def wrap(self, target: Any) -> Any:
        return _Stepped(target, self)

    def step(self, call: Callable[[], Any]) -> Any:
        with self._lock:
            mine = self.count == self._at
            self.count += 1
        if mine and not self._after:
            self._then()
        done = call()
        if mine and self._after:
            self._then()
        return done

    @property
    def reached(self) -> bool:
        return self.count > self._at


class _Stepped:
    def __init__(self, target: Any, steps: Steps) -> None:
        self._target, self._steps = target, steps

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._target, name)
        if name in ("keep", "lag", "abandon"):
            return inner
        return lambda *a, **k: self._steps.step(lambda: inner(*a, **k))


def stepped(worker: Worker, steps: Steps) -> Worker:
    store, bus = steps.wrap(worker.store), steps.wrap(worker.subscription)
    attempts = Attempts(store, worker.spec.name)
    return replace(
        worker,
        store=store,
        subscription=bus,
        publisher=bus,
        attempts=attempts,
        runner=steps.wrap(worker.runner),
    )


def each_step(
    world: Callable[[], World], then: Callable[[World], None]
) -> Iterator[tuple[World, Worker, Steps]]:
    """Yield a new world for each step until a course has no such step any more."""
    for after in (False, True):
        for at in range(100):
            fresh = world()
            steps = Steps(at, after, lambda fresh=fresh: then(fresh))
            yield fresh, stepped(fresh.worker(), steps), steps
            if not steps.reached:
                break


def check_one_end(world: World, how: str | None = None) -> None:
    letter, draft = LETTER in world.store.objects, EVENT.key in world.runner.written
    assert (letter, draft) in {(True, False), (False, True)}
    if how:
        assert draft == (how in GOOD)
    announced = {event.id for event in world.bus.published}
    rejected = {reason.letter.data.event_id for reason in world.bus.rejected}
    assert announced == {drafted(EVENT).id} if draft else rejected == {EVENT.id}
    assert world.bus.ended[-1] in {"done", "reject"}


def _world(how: str) -> World:
    return World(FailingStore(), FailingBus(), FakeRunner(ENDS[how]()))


def _kill(_: World) -> None:
    raise KilledError


@pytest.mark.parametrize("how", ENDS)
def test_killed_at_any_step_and_delivered_again(how: str):
    kills = 0
    for world, worker, _ in each_step(lambda: _world(how), _kill):
        try:
            work(worker)
        except KilledError:
            kills += 1
        if world.bus.ended[-1:] not in (["done"], ["reject"]):
            work(world.worker())
        check_one_end(world, how)
        work(world.worker())  # a duplicate changes nothing
        check_one_end(world, how)
    assert kills > 10


@pytest.mark.parametrize("how", ENDS)
def test_killed_twice_at_any_step(how: str):
    for world, worker, _ in each_step(lambda: _world(how), _kill):
        for again in (worker, stepped(world.worker(), Steps(2, True, lambda: _kill(None)))):
            try:
                work(again)
            except KilledError:
                continue
        if world.bus.ended[-1:] not in (["done"], ["reject"]):
            work(world.worker())
        check_one_end(world, how if how != "crashes once" else None)  # that may be its third attempt


@pytest.mark.parametrize("how", ENDS)
def test_a_server_away_at_any_step_changes_no_end(how: str):
    def away(_: World) -> None:
        raise TransientError("storage-unavailable", "Away.")

    for world, worker, _ in each_step(lambda: _world(how), away):
        try:
            work(worker)
        except TransientError:  # the last removal of attempts, which the loop repeats by itself
            worker.attempts.sweep()
        check_one_end(world, how)
        kept = [f"attempts/w/{EVENT.id}/1"] if how not in GOOD else []
        assert world.store.under("attempts/") == kept


def test_killed_at_any_step_with_an_outcome_too_large_for_an_event():
    """Its objects are there, and it ends in a letter all the same: nobody could ever tell of them."""

    def big() -> World:
        fresh = _world("good")
        fresh.bus.fail("publish", *[InvalidInputError("event-too-large", "It is too large.")] * 99)
        return fresh

    for world, worker, _ in each_step(big, _kill):
        with suppress(KilledError):
            work(worker)
        if world.bus.ended[-1:] != ["reject"]:
            work(world.worker())
        assert LETTER in world.store.objects
        assert world.bus.published == []
        assert {reason.letter.data.event_id for reason in world.bus.rejected} == {EVENT.id}
        assert set(world.bus.ended) == {"reject"}


@pytest.mark.parametrize("how", ENDS)
def test_killed_at_any_step_and_set_aside_at_each_passing_failure(how: str):
    """What was set aside comes again, to this worker or, when it was killed, to another."""
    for world, first, _ in each_step(lambda: _world(how), _kill):
        world.bus.room, worker = 999, first
        for _ in range(20):
            try:
                work(worker)
            except KilledError:
                worker = world.worker()
            if world.bus.ended[-1:] in (["done"], ["reject"]):
                break
        check_one_end(world, how)


@pytest.mark.parametrize("theirs", ENDS)
@pytest.mark.parametrize("ours", ENDS)
def test_overtaken_at_any_step_by_the_member_that_has_the_record_now(ours: str, theirs: str):
    """Two work on one record; one may succeed where the other gives up. What is finished wins."""

    def overtake(world: World) -> None:
        other = FakeRunner(ENDS[theirs](), world.runner.written)
        world.bus.ours = True
        work(replace(world.worker(), runner=other))
        world.bus.ours = False

    for world, worker, _ in each_step(lambda: _world(ours), overtake):
        work(worker)
        letter, draft = LETTER in world.store.objects, EVENT.key in world.runner.written
        assert (letter, draft) in {(True, False), (False, True)}
        if {ours, theirs} <= {"good", "outage"}:  # else three attempts may be used up between them
            assert draft
