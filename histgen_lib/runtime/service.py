"""Runs a service from its start to its exit code; a web service with its HTTP server and its loops."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histgen_lib.errors import FatalError, HistgenError
from histgen_lib.resources import disk_full, exit_code_of, was_full
from histgen_lib.runtime.board import WebBoard
from histgen_lib.runtime.loops import Loop, StoreProbe
from histgen_lib.runtime.pulse import GRACE_S
from histgen_lib.runtime.stopping import Stop, Stopped
from histgen_lib.runtime.web.address import Address
from histgen_lib.runtime.web.server import opened
from histgen_lib.telemetry import get_logger

if TYPE_CHECKING:
    from starlette.applications import Starlette

UNFORESEEN = 70  # EX_SOFTWARE of sysexits.h

_TURN_S, _DRAIN_STEP_S = 1.0, 0.02

_log = get_logger()


def exit_code(run: Callable[[], int | None]) -> int:
    """Run a service to its end, log the error that ended it, if any, and return the exit code.

    What `run` returns, or 0, if it stopped normally. An error of ours has its own code, and a full disk is a
    passing trouble. 70: any other exception, which is a fault in the software.
    """
    try:
        return run() or 0
    except Stopped:
        return 0
    except Exception as error:
        return _exit_code_of(error)


def _exit_code_of(error: Exception) -> int:
    if isinstance(error, HistgenError):
        code = exit_code_of(error)
        _log.error("The service stops; a person must fix this.", exc_info=error, exit_code=code)
        return code
    if was_full(error):
        full = disk_full()
        _log.error("The service stops.", exc_info=full, exit_code=full.exit_code)
        return full.exit_code
    _log.error("The service stops; this is a fault in the software.", exc_info=error, exit_code=UNFORESEEN)
    return UNFORESEEN


@dataclass
class WebService:
    """A service that answers requests and runs loops beside that.

    `probe`: asks the store, for a service that does nothing without it. `close` is called last, after
    requests and loops have ended or the grace period is over.
    """

    app: Starlette
    address: Address
    board: WebBoard
    stop: Stop
    probe: StoreProbe | None
    loops: Sequence[Loop] = ()
    grace_s: float = GRACE_S
    close: Callable[[], None] = lambda: None

    def run(self) -> None:
        """Run until the stop, then finish work in hand. Raises FatalError if an error requires the stop."""
        with opened(self.app, self.board.worker, self.address) as url:
            _log.info("The service is open.", url=url)
            for loop in self.loops:
                loop.thread.start()
            while not self.stop.wait(_TURN_S):
                self._turn()
            self.board.stopping = True
            self._drain()
        _log.info("The service has stopped.", count=self.board.requests)
        for further in self.stop.failures[1:]:
            _log.error("A further error required the stop.", exc_info=further)
        if self.stop.failures:
            raise self.stop.failures[0]

    def _turn(self) -> None:
        self.board.turn()
        error = self.probe.turn() if self.probe else None
        if isinstance(error, FatalError):
            self.stop.fail(error)
        if "store" not in self.board.missing:
            self.board.phase = "idle"

    def _drain(self) -> None:
        """Let requests and loops finish; what does not finish in time was not done, and comes again."""
        while not self.stop.over(self.grace_s) and (self.board.requests or self._turning()):
            self.board.turn()
            time.sleep(_DRAIN_STEP_S)
        self.close()

    def _turning(self) -> bool:
        return any(loop.thread.is_alive() for loop in self.loops)
