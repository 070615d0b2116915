"""Being told to stop: once to finish what is in hand, twice to leave at once."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_TERMINAL, _SHOW_CURSOR = 2, b"\x1b[?25h"


class Stopped(Exception):  # noqa: N818 - no error: the way out of whatever is being waited for
    """It is time to leave; what is in hand is handed back."""


class Stop:
    """Whether, and since when, something is to stop.

    Signal handlers may ask for it: they run between any two steps of the main thread, which may hold the very
    lock that a `threading.Event` takes. So there is none: a request is a number and a byte in a socket.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._since: float | None = None
        self._ear, self._clapper = socket.socketpair()

    @property
    def requested(self) -> bool:
        """Tell whether to take no new record."""
        return self._since is not None

    @property
    def exit_code(self) -> int:
        """Return what a process ends with that this kept from finishing, as shells count signals."""
        return 128 + self.signal if self.signal else 0

    def request(self, number: int = 0) -> None:
        """Ask to stop, for a signal if `number` says which; the first time counts."""
        if self._since is None:
            self.signal, self._since = number, time.monotonic()
        with suppress(OSError):  # it was asked for often enough
            self._clapper.send(b".", socket.MSG_DONTWAIT)

    def over(self, grace_s: float) -> bool:
        """Tell whether `grace_s` seconds have passed since the request."""
        return self._since is not None and time.monotonic() >= self._since + grace_s

    def wait(self, timeout_s: float) -> bool:
        """Wait for the request; True once it is there."""
        listening = select.poll()
        listening.register(self._ear, select.POLLIN)
        listening.poll(max(0.0, timeout_s) * 1000)
        return self.requested

    def check(self) -> None:
        """Raise Stopped once it is there."""
        if self.requested:
            raise Stopped


@contextmanager
def stopped_by_signals(stop: Stop, numbers: Sequence[signal.Signals] = STOP_SIGNALS) -> Iterator[Stop]:
    """Have signals request the stop; the second ends this process where it stands, and its children with it.

    Nothing is raised: an exception from a handler may come up where Python cannot but drop it (a callback in
    the middle of an import), or where it leaves a lock taken for ever.
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
    """End here and now; a terminal that something was drawn in gets its cursor back."""
    if os.isatty(_TERMINAL):
        os.write(_TERMINAL, _SHOW_CURSOR)
    os._exit(exit_code)
