"""A stop can be requested from a signal handler, and ends every wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from histgen_lib.runtime.stopping import Stop, Stopped, stopped_by_signals


def test_a_stop_may_be_requested_between_any_two_steps_of_a_wait():
    """The handler runs in the waiting thread itself: a lock held by that wait would never be released."""
    steps = []

    def wait(at: int) -> None:
        stop, passed = Stop(), 0

        def step(_frame, _event, _argument):
            nonlocal passed
            if passed == at:
                stop.request()
            passed += 1
            return step

        sys.settrace(step)
        try:
            stop.wait(0.001)
        finally:
            sys.settrace(None)
        steps.append((at, passed, stop.requested))

    for at in range(100):
        thread = threading.Thread(target=wait, args=[at], daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive(), f"it hangs if it is asked for at step {at}"
        if steps[-1][1] <= at:
            break
    assert len(steps) > 3
    assert all(requested for at, passed, requested in steps if at < passed)


def test_a_request_ends_every_wait():
    stop, ended = Stop(), []
    waiting = [threading.Thread(target=lambda: ended.append(stop.wait(600))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    stop.request()
    for thread in waiting:
        thread.join(60)

    assert ended == [True] * 3
    assert stop.wait(600)


def test_a_wait_without_a_request_ends_in_time():
    assert not Stop().wait(0.0)
    assert not Stop().wait(-1.0)


def test_the_grace_period_counts_from_the_first_request():
    now = [100.0]
    stop = Stop(lambda: now[0])
    assert not stop.over(0.0)
    stop.request()
    now[0] = 109.0
    stop.request()

    assert not stop.over(10.0)
    assert stop.over(9.0)


def test_a_check_raises_after_the_request():
    stop = Stop()
    stop.check()
    stop.request()
    with pytest.raises(Stopped):
        stop.check()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_requests_the_stop_and_is_remembered(number):
    before = signal.getsignal(number)
    with stopped_by_signals(Stop()) as stop:
        os.kill(os.getpid(), number)
        assert stop.wait(60)

    assert (stop.signal, stop.exit_code) == (number, 128 + number)
    assert signal.getsignal(number) is before


def test_the_second_signal_ends_the_process_at_once():
    program = """
import os, signal
from histgen_lib.runtime.stopping import Stop, stopped_by_signals
with stopped_by_signals(Stop()):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)

    assert done.returncode == 128 + signal.SIGTERM
