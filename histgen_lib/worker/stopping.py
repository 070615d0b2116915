"""Being told to stop: once to finish what is in hand, twice to leave at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):  # noqa: N818 - no error: the way out of whatever is being waited for
    """It is time to leave; what is in hand is handed back."""


class Stop:
    """Whether, and since when, the worker is to stop."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._since = 0.0

    @property
    def requested(self) -> bool:
        """Tell whether to take no new record."""
        return self._event.is_set()

    def request(self) -> None:
        """Ask to stop; the first time counts."""
        if not self._event.is_set():
            self._since = time.monotonic()
            self._event.set()

    def over(self, grace_s: float) -> bool:
        """Tell whether `grace_s` seconds have passed since the request."""
        return self.requested and time.monotonic() >= self._since + grace_s

    def wait(self, timeout_s: float) -> bool:
        """Wait for the request; True once it is there."""
        return self._event.wait(timeout_s)


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[Stop]:
    """Have SIGTERM and SIGINT request the stop; the second signal ends this process where it stands.

    The child process, which ignores both, dies with this one.
    """

    def on_signal(number: int, _: FrameType | None) -> None:
        if stop.requested:
            os._exit(128 + number)
        stop.request()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
