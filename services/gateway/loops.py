"""A loop in a thread of its own: shows that it turns, does slow things aside, leaves when it is told to."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from histgen_lib.errors import FatalError, TransientError
from histgen_lib.runtime.backoff import Backoff
from histgen_lib.runtime.board import LIVE_S, Board
from histgen_lib.runtime.pulse import STEP_S, aside
from histgen_lib.runtime.stopping import Stop, Stopped
from histgen_lib.telemetry import get_logger, metrics
from services.gateway.board import NAME

T = TypeVar("T")
BEAT_S = 5.0
"""The longest pause between two beats; a stop ends it at once."""

_log = get_logger()


class Loop(ABC):
    """Base of the gateway's loops.

    `turn` is called again and again until the stop; what is in hand may then take `grace_s` more seconds.
    What the loop waits for stands on the board under its name.
    """

    name = ""

    def __init__(
        self, board: Board, stop: Stop, *, grace_s: float = 20.0, backoff: Backoff | None = None
    ) -> None:
        self._board, self._stop, self._grace_s, self._backoff = board, stop, grace_s, backoff or Backoff()
        self._turned_at = time.monotonic()
        self.failure: FatalError | None = None
        self.thread = threading.Thread(target=self._run, name=f"gateway-{self.name}", daemon=True)

    @property
    def waiting(self) -> int:
        """Count the slides that this loop knows of and has not dealt with."""
        return 0

    @abstractmethod
    def turn(self) -> None:
        """Do one round. TransientError is waited out; FatalError ends the service."""

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of connections."""

    def beat(self) -> None:
        """Show that the loop turns; also called while it waits. Stopped when there is no more time."""
        self._turned_at = time.monotonic()
        if self._stop.over(self._grace_s):
            raise Stopped

    def live(self) -> bool:
        """Tell whether the loop turned lately."""
        return time.monotonic() - self._turned_at < LIVE_S

    def aside(self, call: Callable[[], T]) -> T:
        """Do something slow in another thread, and beat meanwhile."""
        future: Future[T] = aside(call)
        while not wait([future], STEP_S).done:
            self.beat()
        return future.result()

    def insist(self, call: Callable[[], T], *, here: bool = False) -> T:
        """Do something that needs a server, as often as it takes; in another thread unless it must be `here`.

        Stopped if the service stops before it is done.
        """
        for delay_s in self._backoff.delays():
            try:
                done = call() if here else self.aside(call)
            except TransientError as error:
                self._away(error, delay_s)
            else:
                self._board.has(self.name)
                return done
        raise AssertionError("delays never end")

    def pause(self, seconds: float) -> None:
        """Beat for some seconds. Stopped as soon as the service stops."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.beat()
            if self._stop.wait(min(BEAT_S, left)):
                raise Stopped

    def _away(self, error: TransientError, delay_s: float) -> None:
        if self._board.missing.get(self.name) != error.code:
            _log.warning("A server is away; trying again.", exc_info=error, stage=self.name)
        self._board.lacks(self.name, error)
        metrics.RETRIES.labels(NAME, error.code).inc()
        self.pause(delay_s)

    def _run(self) -> None:
        try:
            while not self._stop.requested:
                self._turn()
        except Stopped:
            pass
        except FatalError as error:
            self.failure = error
            self._stop.request()
        finally:
            self.close()

    def _turn(self) -> None:
        """Turn once, waiting out what is transient and what nobody foresaw."""
        for delay_s in self._backoff.delays():
            try:
                self.turn()
            except TransientError as error:
                self._away(error, delay_s)
            except (Stopped, FatalError):
                raise
            except Exception as error:
                _log.error("A loop failed; it goes on.", exc_info=error, stage=self.name)
                self._board.lacks(self.name, "internal-error")
                self.pause(delay_s)
            else:
                self._board.has(self.name)
                return
