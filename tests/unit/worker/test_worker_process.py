"""A child process that dies is known to be dead, however long it takes to let go of its files."""

from __future__ import annotations

import os
import signal

import pytest
from waiting import until

from histgen_lib.runtime.silence import is_ending
from histgen_lib.worker.child import Started
from histgen_lib.worker.runner import JobProcess, ProcessDiedError


class Large:
    """A handler that does nothing, in a process whose memory takes a while to be given back."""

    def __init__(self) -> None:
        self.memory = bytearray(os.urandom(1 << 20) * 300)

    def find(self, _event): ...

    def handle(self, _event, _progress): ...

    def ready(self):
        return ()

    def models(self):
        return ()


def test_a_killed_child_is_known_to_be_dead_before_its_pipe_closes():
    process = JobProcess(Large, "tiler")
    process.start()
    try:
        assert isinstance(until(lambda: process.receive(0.1), 60, "its start"), Started)
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: is_ending(process.pid), 60, "its death", every_s=0)
        with pytest.raises(ProcessDiedError) as caught:
            process.receive(0.0)
        assert caught.value.exit_code == -signal.SIGKILL
    finally:
        process.kill()
