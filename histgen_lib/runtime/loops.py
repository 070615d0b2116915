"""Loops that run beside a service's main thread, and the probe that shows whether its store answers."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from histgen_lib.errors import FatalError, HistgenError, TransientError
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.pulse import GRACE_S, Backoff, Pulse, in_background
from histgen_lib.runtime.stopping import Stop, Stopped
from histgen_lib.storage import ObjectInfo, ObjectStore
from histgen_lib.telemetry import get_logger

T = TypeVar("T")

_log = get_logger()


@dataclass(frozen=True)
class LoopContext:
    """What all loops of a service share. `grace_s`: how long after a stop a turn may go on."""

    board: Board
    stop: Stop
    grace_s: float = GRACE_S
    backoff: Backoff = field(default_factory=Backoff)


class Loop(ABC):
    """A supervised loop in a thread of its own.

    `turn` is called again and again until the stop; the turn in hand then gets the grace period. The board
    shows under the loop's name what it waits for. Any failure is logged and tried again, except FatalError,
    which stops the service.
    """

    name: ClassVar[str]

    def __init__(self, context: LoopContext) -> None:
        self._board, self._stop, self._backoff = context.board, context.stop, context.backoff
        self._pulse = Pulse(
            context.board,
            context.stop,
            grace_s=context.grace_s,
            backoff=context.backoff,
            loop=self.name,
            broker=self.name,
        )
        self.thread = threading.Thread(target=self._run, name=f"loop-{self.name}", daemon=True)

    @abstractmethod
    def turn(self) -> None:
        """Do one round. TransientError: it is done again after a pause. FatalError: the service stops."""

    def close(self) -> None:  # noqa: B027 - most loops hold nothing open
        """Close connections and files."""

    def background(self, call: Callable[[], T]) -> T:
        """Do something slow in another thread, and beat meanwhile."""
        return self._pulse.until(in_background(call))

    def insist(self, call: Callable[[], T], *, background: bool = True) -> T:
        """Do something that needs a server until it succeeds. Raises Stopped if the service stops first."""
        return self._pulse.insist(self.name, call, patient=False, background=background)

    def pause(self, seconds: float) -> None:
        """Beat for some seconds. Raises Stopped as soon as the service stops."""
        self._pulse.pause(seconds)

    def _run(self) -> None:
        self._pulse.take()
        try:
            while not self._stop.requested:
                self._turn()
        except Stopped:
            pass
        except FatalError as error:
            self._stop.fail(error)
        finally:
            self.close()

    def _turn(self) -> None:
        """Turn once; if that fails, again after a pause."""
        for delay_s in self._backoff.delays():
            try:
                self.turn()
            except TransientError as error:
                self._pulse.outage(self.name, error, delay_s)
            except (Stopped, FatalError):
                raise
            except Exception as error:
                _log.error("A loop failed; it goes on.", exc_info=error, stage=self.name)
                self._board.lacks(self.name, "internal-error")
                self.pause(delay_s)
            else:
                self._pulse.recovered(self.name)
                return


class StoreProbe:
    """Shows on the board whether the object store answers, by looking up `key` every `every_s` seconds.

    There need be no object with that key. The look-up runs in the background, one at a time.
    """

    def __init__(
        self,
        store: ObjectStore,
        board: Board,
        *,
        key: str,
        every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._board, self._key, self._every_s = store, board, key, every_s
        self._clock = clock
        self._probing: Future[ObjectInfo | None] | None = None
        self._began_at = float("-inf")

    def turn(self) -> HistgenError | None:
        """Note the outcome of a look-up that ended, or start one if it is time. Returns its error, if any."""
        probing, error = self._probing, None
        if probing and probing.done():
            self._probing, failure = None, probing.exception()
            error = failure if isinstance(failure, HistgenError) else None
            if error:
                self._board.lacks("store", error)
            elif failure is None:
                self._board.has("store")
        elif probing is None and self._clock() - self._began_at >= self._every_s:
            self._began_at = self._clock()
            self._probing = in_background(lambda: self._store.head(self._key))
        return error
