"""A process is taken to be frozen only by who watched it all the time."""

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


def test_it_lasts_once_there_was_no_sign_of_life_for_as_long_as_the_limit():
    clock = Clock()
    silence = Silence(60, clock)

    assert looks(silence, clock, every_s=10, times=6) == [False] * 5 + [True]


def test_a_sign_of_life_has_it_counted_anew():
    clock = Clock()
    silence = Silence(60, clock)
    looks(silence, clock, every_s=10, times=5)
    looks(silence, clock, every_s=10, times=1, alive=True)

    assert looks(silence, clock, every_s=10, times=6) == [False] * 5 + [True]


def test_who_was_away_itself_counts_anew():
    """A laptop that slept, and a supervisor that was stopped, kill nothing when they come back."""
    clock = Clock()
    silence = Silence(60, clock)
    looks(silence, clock, every_s=10, times=5)

    assert looks(silence, clock, every_s=3600, times=3) == [False] * 3
    assert looks(silence, clock, every_s=10, times=6) == [False] * 5 + [True]


def test_a_limit_of_none_never_ends():
    clock = Clock()

    assert not any(looks(Silence(0, clock), clock, every_s=1, times=1000))


def test_a_process_that_stands_still_is_told_from_one_that_runs_and_one_that_is_gone():
    with subprocess.Popen(["sleep", "600"]) as process:
        assert not is_stopped(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: is_stopped(process.pid), 60, "it to stand still")
        process.kill()

    assert not is_stopped(process.pid)
    assert not is_stopped(None)
