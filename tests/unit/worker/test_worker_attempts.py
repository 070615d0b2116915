"""Attempts are counted in the store, and removed exactly once."""

from __future__ import annotations

import threading

import pytest
from worker_fakes import STORE_AWAY, FailingStore

from histgen_lib.errors import TransientError
from histgen_lib.worker.attempts import Attempts


def test_attempts_are_numbered_over_all_processes_of_a_worker():
    store = FailingStore()
    trials = [Attempts(store, "w").begin("e", 3) for _ in range(4)]
    assert [trial.number for trial in trials] == [1, 2, 3, 3]
    assert [trial.key for trial in trials] == [*(f"attempts/w/e/{n}" for n in (1, 2, 3)), None]
    assert trials[3].earlier == trials[3].keys == tuple(f"attempts/w/e/{n}" for n in (1, 2, 3))


def test_other_events_and_other_workers_are_not_counted():
    store = FailingStore()
    Attempts(store, "w").begin("e", 3)
    assert Attempts(store, "w").begin("e2", 3).number == 1
    assert Attempts(store, "v").begin("e", 3).number == 1


def test_a_failed_removal_is_repeated_before_the_next_attempt():
    store = FailingStore()
    attempts = Attempts(store, "w")
    attempts.forget(attempts.begin("e", 3).keys)
    store.fail("delete", STORE_AWAY)
    with pytest.raises(TransientError):
        attempts.sweep()
    assert attempts.unswept
    assert attempts.begin("e", 3).number == 1
    attempts.sweep()
    assert store.under("") == ["attempts/w/e/1"]


def test_a_store_whose_lists_lag_behind_does_not_hold_us_up():
    """The put says that there is an attempt, the list does not know it yet."""
    store = FailingStore()
    Attempts(store, "w").begin("e", 3)
    store.list = lambda prefix="": iter(())
    assert Attempts(store, "w").begin("e", 3).key == "attempts/w/e/2"


@pytest.mark.parametrize("answer", ["none", "there is one"])
def test_a_put_whose_answer_was_lost_does_not_count(answer: str):
    """A slow store does what it is asked to, and tells nobody: its outage must not use attempts up."""
    store = FailingStore()
    others = Attempts(store, "w").begin("e", 3)
    attempts, put = Attempts(store, "w"), store.put

    def store_without_answer(key: str, data: bytes) -> bool:
        if put(key, data) and answer == "none":
            raise STORE_AWAY
        return False

    store.put = store_without_answer
    for _ in range(5):
        if answer == "none":
            with pytest.raises(TransientError):
                attempts.begin("e", 3)
    store.put = put if answer == "none" else store_without_answer
    trial = attempts.begin("e", 3)
    assert (trial.number, trial.earlier) == (2, others.keys)
    assert store.under("") == ["attempts/w/e/1", "attempts/w/e/2"]


def test_noting_an_end_does_not_wait_for_a_slow_removal():
    """The poll loop notes; a removal beside it may hang as long as the store does."""
    store, began, go = FailingStore(), threading.Event(), threading.Event()
    attempts = Attempts(store, "w")
    attempts.forget(attempts.begin("e", 3).keys)
    delete = store.delete
    store.delete = lambda key: (began.set(), go.wait(60), delete(key))
    sweeping = threading.Thread(target=attempts.sweep)
    sweeping.start()
    assert began.wait(60)
    attempts.forget(["attempts/w/e2/1"])
    go.set()
    sweeping.join()
    attempts.sweep()
    assert not attempts.unswept
