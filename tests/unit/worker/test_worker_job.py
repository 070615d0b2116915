"""What becomes of a record, decision by decision, with servers in memory that fail on demand."""

from __future__ import annotations

import pytest
from worker_fakes import (
    BAD,
    BUS_AWAY,
    EVENT,
    FIRST,
    LETTER,
    STORE_AWAY,
    World,
    delivery,
    drafted,
    work,
)

from histgen_lib.catalogue.dead_letter import DeadLetter, read_dead_letter
from histgen_lib.errors import FatalError, TransientError
from histgen_lib.runtime.stopping import Stopped
from histgen_lib.telemetry import metrics
from histgen_lib.worker.failures import CRASHED, LATE, JobFailedError
from histgen_lib.worker.task import Task

AWAY = TransientError("inference-unavailable", "The model server is away.")
CRASH = JobFailedError(CRASHED)


def test_a_job_is_published_then_committed_and_its_attempt_removed(world: World):
    work(world.worker())
    assert [event.id for event in world.bus.published] == [drafted(EVENT).id]
    assert world.bus.ended == ["done"]
    assert world.store.objects == {}


def test_nothing_is_committed_before_its_event_is_published(world: World):
    world.bus.fail("publish", BUS_AWAY)
    ended_at_publish = []
    publish = world.bus.publish
    world.bus.publish = lambda *a: (ended_at_publish.append(list(world.bus.ended)), publish(*a))
    work(world.worker())
    assert ended_at_publish == [[], []]
    assert world.bus.ended == ["done"]


def test_the_attempt_is_counted_before_the_job_begins(world: World):
    world.runner.results = [lambda: seen.append(world.store.under("attempts/"))]
    seen: list[list[str]] = []
    work(world.worker())
    assert seen == [[FIRST]]


def test_a_fresh_event_costs_one_put_before_the_job_and_one_delete_after(world: World):
    work(world.worker())
    assert world.store.calls == {"put": 1, "delete": 1}


def test_finished_objects_are_announced_and_committed_and_not_made_again(world: World):
    world.runner.written = {EVENT.key}
    work(world.worker())
    assert world.runner.handled == []
    assert [event.id for event in world.bus.published] == [drafted(EVENT).id]
    assert world.bus.ended == ["done"]


def test_duplicates_of_an_event_are_done_once(world: World):
    worker = world.worker()
    for _ in range(12):
        work(worker)
    assert world.runner.handled == [1]
    assert {event.id for event in world.bus.published} == {drafted(EVENT).id}
    assert world.bus.ended == ["done"] * 12
    assert world.store.objects == {}


def test_an_outage_of_a_hundred_tries_costs_no_attempt_and_no_dead_letter(world: World):
    world.runner.results = [AWAY] * 100
    work(world.worker())
    assert world.runner.handled == [1] * 101
    assert world.bus.ended == ["done"]
    assert world.bus.rejected == []
    assert world.store.objects == {}


def test_an_outage_of_everything_at_once_is_waited_out(world: World):
    world.runner.results = [AWAY, STORE_AWAY] * 10
    world.store.fail("put", *[STORE_AWAY] * 7)
    world.store.fail("delete", *[STORE_AWAY] * 7)
    world.bus.fail("publish", *[BUS_AWAY] * 7)
    world.bus.fail("done", *[BUS_AWAY] * 7)
    work(world.worker())
    assert max(world.runner.handled) == 1
    assert world.bus.ended == ["done"]
    assert world.store.objects == {}


@pytest.mark.parametrize("step", ["publish", "done"])
def test_a_finished_job_is_not_run_again_because_the_broker_is_away(world: World, step: str):
    world.bus.fail(step, *[BUS_AWAY] * 20)
    work(world.worker())
    assert world.runner.handled == [1]
    assert len(world.bus.published) == 1


def test_an_invalid_input_is_given_up_at_once_first_in_writing_then_in_public(world: World):
    world.runner.results = [BAD]
    world.bus.fail("reject", BUS_AWAY)
    work(world.worker())
    letter = read_dead_letter(world.store, EVENT.id)
    assert letter == DeadLetter(EVENT.id, BAD.code, BAD.message, BAD.hint, 1, "w", event=EVENT)
    (reason,) = world.bus.rejected
    assert (reason.code, reason.letter.data.key) == ("slide-damaged", LETTER)
    assert world.bus.ended == ["reject"]
    assert world.runner.handled == [1]


def test_an_event_that_was_given_up_and_comes_again_is_given_up_untried(world: World):
    world.runner.results = [BAD]
    worker = world.worker()
    work(worker)
    before = world.store.objects[LETTER]
    work(worker)
    assert world.runner.handled == [1]
    assert world.bus.ended == ["reject", "reject"]
    assert {reason.letter.id for reason in world.bus.rejected} == {world.bus.rejected[0].letter.id}
    assert world.store.objects[LETTER] == before
    assert world.store.under("attempts/") == [FIRST]


@pytest.mark.parametrize(
    ("failure", "code"), [(JobFailedError(CRASHED), "job-crashed"), (JobFailedError(LATE), "job-deadline")]
)
def test_a_job_that_fails_every_time_is_given_up_after_the_last_attempt(world: World, failure, code: str):
    world.runner.results = [failure] * 9
    work(world.worker())
    letter = read_dead_letter(world.store, EVENT.id)
    assert letter
    assert (letter.code, letter.attempts) == (code, 3)
    assert world.runner.handled == [1, 2, 3]
    assert world.store.under("attempts/") == [FIRST]


def test_attempts_count_across_restarts(world: World):
    """Each worker is killed in its job: an attempt is left, as nobody could remove it."""
    for _ in range(3):
        worker = world.worker()
        worker.attempts.begin(EVENT.id, 3)
    work(world.worker())
    letter = read_dead_letter(world.store, EVENT.id)
    assert letter
    assert (letter.code, letter.attempts) == ("worker-died", 3)
    assert world.runner.handled == []


def test_objects_that_the_last_attempt_finished_are_found_before_giving_up(world: World):
    for _ in range(3):
        world.worker().attempts.begin(EVENT.id, 3)
    world.runner.written = {EVENT.key}
    work(world.worker())
    assert world.bus.ended == ["done"]
    assert world.store.objects == {}


def test_a_look_that_crashes_counts_as_an_attempt(world: World):
    world.runner.on_find = [CRASH] * 9
    work(world.worker())
    assert world.bus.ended == ["reject"]
    assert world.runner.handled == []


def test_transient_tries_between_crashes_do_not_count(world: World):
    world.runner.results = [CRASH, AWAY, AWAY, AWAY, AWAY, CRASH, AWAY]
    work(world.worker())
    assert world.runner.handled == [1, 2, 2, 2, 2, 2, 3, 3]
    assert world.bus.ended == ["done"]
    assert world.store.objects == {}


def test_a_finished_object_outweighs_a_letter_that_another_member_wrote(world: World):
    """We lost the partition in mid-job, and its new owner gave the event up."""
    worker = world.worker()

    def other_gives_up() -> None:
        letter = DeadLetter.of_event(EVENT, CRASHED, attempts=3, worker="w")
        world.store.put(letter.key, letter.to_bytes())
        world.bus.ours = False

    world.runner.results = [other_gives_up]
    work(worker)
    assert LETTER not in world.store.objects
    assert len(world.bus.published) == 1


def test_a_finished_object_outweighs_our_own_letter(world: World):
    """The object of a member that lost the partition comes up just as we give the event up."""
    worker = world.worker()
    world.runner.results = [BAD]
    put = world.store.put

    def put_and_be_overtaken(key: str, data: bytes, **kwargs) -> bool:
        if key == LETTER:
            world.runner.written.add(EVENT.key)
        return put(key, data, **kwargs)

    world.store.put = put_and_be_overtaken
    work(worker)
    assert world.bus.ended == ["done"]
    assert world.store.objects == {}


def test_a_record_lost_in_mid_job_is_published_and_left_to_the_other_member(world: World):
    before = _jobs("lost")
    world.bus.ours = False
    work(world.worker())
    assert len(world.bus.published) == 1
    assert _jobs("lost") == before + 1


def _jobs(outcome: str) -> float:
    return metrics.REGISTRY.get_sample_value("histgen_jobs_total", {"worker": "w", "outcome": outcome}) or 0.0


def test_a_fatal_error_leaves_the_event_uncommitted_and_uncounted(world: World):
    world.runner.results = [FatalError("model-missing", "There is no model.")]
    worker = world.worker()
    job = Task(worker, delivery(EVENT), EVENT)
    with pytest.raises(FatalError):
        job.run()
    job.withdraw(1.0)
    worker.attempts.sweep()
    assert world.bus.ended == []
    assert world.store.objects == {}


def test_a_stop_while_waiting_to_try_again_hands_back_uncounted(world: World):
    worker = world.worker()
    job = Task(worker, delivery(EVENT), EVENT)

    def stop_and_fail() -> None:
        world.stop.request()
        raise AWAY

    world.runner.results = [stop_and_fail]
    with pytest.raises(Stopped):
        job.run()
    job.withdraw(1.0)
    worker.attempts.sweep()
    assert world.store.objects == {}
    assert world.bus.ended == []


def test_a_crash_still_counts_if_the_stop_comes_after_it(world: World):
    def stop_and_crash() -> None:
        world.stop.request()
        raise CRASH

    world.runner.results = [stop_and_crash]
    worker = world.worker()
    job = Task(worker, delivery(EVENT), EVENT)
    with pytest.raises(Stopped):
        job.run()
    job.withdraw(1.0)
    worker.attempts.sweep()
    assert world.store.under("attempts/") == [FIRST]


def test_a_stop_after_the_letter_keeps_the_attempt_that_points_to_it(world: World):
    """Else the event, delivered again, would look fresh, and could end in a letter and an object."""
    world.runner.results = [BAD]
    worker = world.worker(grace_s=0.0)

    def stop_and_fail(*_: object) -> bool:
        world.stop.request()
        raise BUS_AWAY

    world.bus.reject = stop_and_fail
    job = Task(worker, delivery(EVENT), EVENT)
    with pytest.raises(Stopped):
        job.run()
    job.withdraw(1.0)
    worker.attempts.sweep()
    assert world.store.under("") == [FIRST, LETTER]


def test_a_stop_between_letter_and_second_look_keeps_the_attempt_too(world: World):
    def stop_and_fail() -> None:
        world.stop.request()
        raise STORE_AWAY

    world.runner.results = [BAD]
    world.runner.on_find = [None, stop_and_fail]
    worker = world.worker(grace_s=0.0)
    job = Task(worker, delivery(EVENT), EVENT)
    with pytest.raises(Stopped):
        job.run()
    job.withdraw(1.0)
    worker.attempts.sweep()
    assert world.store.under("") == [FIRST, LETTER]


def test_an_event_whose_letter_was_removed_is_tried_again(world: World):
    world.runner.results = [BAD]
    worker = world.worker()
    work(worker)
    world.store.delete(LETTER)
    work(worker)
    assert world.bus.ended == ["reject", "done"]
    assert world.store.objects == {}


def test_the_age_of_a_draft_since_its_scan_is_observed_once(world: World):
    before = _drafts()
    worker = world.worker()
    worker.board.take(EVENT)
    work(worker)
    work(worker)
    assert _drafts() == before + 1


def _drafts() -> float:
    return metrics.REGISTRY.get_sample_value("histgen_scan_to_draft_seconds_count", {"worker": "w"}) or 0.0
