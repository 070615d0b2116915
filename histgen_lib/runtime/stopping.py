"""Stopping: the first request lets work in hand finish, the second signal ends the process at once."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from histgen_lib.errors import FatalError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_TERMINAL, _SHOW_CURSOR = 2, b"\x1b[?25h"


class Stopped(Exception):  # noqa: N818 - not an error, but the way out of a wait
    """The process must leave now; work in hand is handed back."""


class Stop:
    """Whether, since when and why something is to stop. Safe to use from several threads.

    A signal handler may request the stop. It runs between any two steps of the main thread, which may hold
    the lock that a `threading.Event` needs. So there is no lock: a request is a number and a byte in a
    socket. `failures`: the errors that require the stop, if it is not a normal one. `clock`: monotonic
    seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.signal = 0
        self.failures: list[FatalError] = []
        self._clock = clock
        self._since: float | None = None
        self._receiver, self._sender = socket.socketpair()

    @property
    def requested(self) -> bool:
        """Return whether a stop was requested: start nothing new."""
        return self._since is not None

    @property
    def exit_code(self) -> int:
        """Return the exit code of a process that this stop interrupted, as shells count signals."""
        return 128 + self.signal if self.signal else 0

    def request(self, number: int = 0) -> None:
        """Request the stop, because of signal `number` if any. Later requests change nothing."""
        if self._since is None:
            self.signal, self._since = number, self._clock()
        with suppress(OSError):  # the buffer is full of earlier requests
            self._sender.send(b".", socket.MSG_DONTWAIT)

    def fail(self, error: FatalError) -> None:
        """Request the stop because of an error that only a person can fix."""
        self.failures.append(error)
        self.request()

    def over(self, grace_s: float) -> bool:
        """Return whether the request is at least `grace_s` seconds old."""
        return self._since is not None and self._clock() >= self._since + grace_s

    def wait(self, timeout_s: float) -> bool:
        """Wait for the request; return whether it came."""
        poll = select.poll()
        poll.register(self._receiver, select.POLLIN)
        poll.poll(max(0.0, timeout_s) * 1000)
        return self.requested

    def check(self) -> None:
        """Raise Stopped if the stop was requested."""
        if self.requested:
            raise Stopped


@contextmanager
def stopped_by_signals(stop: Stop, numbers: Sequence[signal.Signals] = STOP_SIGNALS) -> Iterator[Stop]:
    """Let signals request the stop; the second one ends this process at once, and its children with it.

    The handler raises nothing: an exception from it may surface where Python can only drop it (in a callback
    during an import), or where it leaves a lock held forever.
    """

    def on_signal(number: int, _: FrameType | None) -> None:
        if stop.requested:
            _leave_at_once(128 + number)
        stop.request(number)

    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_at_once(exit_code: int) -> None:
    """End the process, and show the terminal's cursor again in case something was being drawn."""
    if os.isatty(_TERMINAL):
        os.write(_TERMINAL, _SHOW_CURSOR)
    os._exit(exit_code)
