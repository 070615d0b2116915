"""A process counts as frozen only if it was observed all the time."""

from __future__ import annotations

import os
import signal
import subprocess

from waiting import until

from histgen_lib.runtime.silence import Silence, is_stopped


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def looks(silence: Silence, clock: Clock, *, every_s: float, times: int, alive: bool = False) -> list[bool]:
    found = []
    for _ in range(times):
        clock.now += every_s
        found.append(silence.lasts(alive=alive))
    return found


def test_a_process_is_frozen_once_it_was_silent_for_the_limit():
    clock = Clock()
    silence = Silence(60, clock)

    assert looks(silence, clock, every_s=10, times=6) == [False] * 5 + [True]


def test_a_sign_of_life_restarts_the_count():
    clock = Clock()
    silence = Silence(60, clock)
    looks(silence, clock, every_s=10, times=5)
    looks(silence, clock, every_s=10, times=1, alive=True)

    assert looks(silence, clock, every_s=10, times=6) == [False] * 5 + [True]


def test_an_observer_that_was_away_restarts_the_count():
    """A laptop that slept, or a supervisor that was stopped, kills nothing when it resumes."""
    clock = Clock()
    silence = Silence(60, clock)
    looks(silence, clock, every_s=10, times=5)

    assert looks(silence, clock, every_s=3600, times=3) == [False] * 3
    assert looks(silence, clock, every_s=10, times=6) == [False] * 5 + [True]


def test_without_a_limit_a_process_is_never_frozen():
    clock = Clock()

    assert not any(looks(Silence(0, clock), clock, every_s=1, times=1000))


def test_a_stopped_process_differs_from_a_running_and_a_dead_one():
    with subprocess.Popen(["sleep", "600"]) as process:
        assert not is_stopped(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: is_stopped(process.pid), 60, "it to stand still")
        process.kill()

    assert not is_stopped(process.pid)
    assert not is_stopped(None)
