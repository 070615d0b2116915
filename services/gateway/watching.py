"""The watched folder: look, wait until a slide is whole, submit it, and keep at it whatever goes wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any

from histgen_lib.access.places import FilePlace
from histgen_lib.errors import InvalidInputError
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.pulse import STEP_S, aside
from histgen_lib.runtime.stopping import Stop
from histgen_lib.telemetry import bound, get_logger
from services.gateway.folder import Candidate, Folder, Look
from services.gateway.intake import Intake
from services.gateway.loops import Loop
from services.gateway.submission import Submission
from services.gateway.watch import Watch

_PASSING = frozenset(
    {"slide-missing", "slide-unreadable", "slide-changed", "slide-incomplete", "slide-open-timeout"}
)
"""Troubles of a file that may pass by themselves; others stay until the file changes."""

_SPARING = 3
"""How many times longer than a look the pause after it is, at least: a slow share has others to serve."""

_CALM_SPARING, _CALM_MOST_S = 200, 15.0
"""The same at rest, in CPU time, up to so many seconds: a folder of thousands must not cost a percent."""

_log = get_logger()


def _timed_look(folder: Folder) -> tuple[Look, float]:
    before = time.thread_time()
    return folder.look(), time.thread_time() - before


class Watching(Loop):
    """Watches one folder tree.

    `settle_s`: how long files must not change; `look_s`: between two looks; `still_s`: how long a look may
    stand still at one place, before it goes on without that place until it lets go.
    """

    name = "watch"

    def __init__(
        self,
        folder: Folder,
        intake: Intake,
        board: Board,
        stop: Stop,
        *,
        settle_s: float,
        look_s: float,
        still_s: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
        **patience: Any,
    ) -> None:
        super().__init__(board, stop, **patience)
        self._folder, self._intake, self._clock = folder, intake, clock
        self._settle_s, self._look_s, self._still_s = settle_s, look_s, still_s
        self._held: dict[Path, Future[Any]] = {}
        self._watch: Watch | None = None
        self._told: tuple[int, tuple[str, ...], tuple[str, ...]] = (0, (), ())

    @property
    def waiting(self) -> int:
        """Count the slides that are there and not dealt with."""
        return self._watch.waiting if self._watch else 0

    def turn(self) -> None:
        """Look once, and submit what is whole; a long backlog is left for a new look now and then."""
        watch = self._watch = self._watch or self._start()
        started = self._clock()
        look, cpu_s = self._look()
        begun = self._clock()
        self._tell(look, watch)
        for candidate, mark in watch.whole(look):
            self._submit(watch, candidate, mark)
            if self._stop.requested or self._clock() - begun > self._look_s:
                return
        calm_s = 0.0 if self.waiting else min(_CALM_MOST_S, _CALM_SPARING * cpu_s)
        self.pause(max(self._look_s, calm_s, _SPARING * (begun - started)))

    def _look(self) -> tuple[Look, float]:
        """Look once; return the CPU time it took, too. A place that holds up the look is left out."""
        held = {at: future for at, future in self._held.items() if not future.done()}
        if len(held) < len(self._held):
            self._leave_out(held)
        future = aside(partial(_timed_look, self._folder))
        while not wait([future], STEP_S).done:
            self.beat()
            at = self._folder.at
            if time.monotonic() - self._folder.since > self._still_s:
                if at == self._folder.root:
                    self._board.lacks(self.name, "watch-unavailable")
                    continue
                _log.warning(
                    "A place in the folder does not answer; the look goes on without.", folder=str(at)
                )
                self._leave_out({**self._held, at: future})
                future = aside(partial(_timed_look, self._folder))
        return future.result()

    def _leave_out(self, held: dict[Path, Future[Any]]) -> None:
        self._held = held
        self._folder = self._folder.but(frozenset(held))

    def _start(self) -> Watch:
        """Learn from the ledger what needs no second look."""
        done = self.aside(lambda: set(self._intake.ledger.all_seen()))
        _log.info("Watching.", folder=str(self._folder.root), count=len(done))
        return Watch(settle_s=self._settle_s, clock=self._clock, done=done)

    def _submit(self, watch: Watch, candidate: Candidate, mark: str) -> None:
        place = FilePlace(candidate.path)
        submission = Submission(place, "watch", mark=mark)
        try:
            self.insist(partial(self._intake.submit, submission))
        except InvalidInputError as error:
            with bound(uri=place.uri):
                self._trouble(watch, candidate, mark, error)
        else:
            watch.finish(candidate, mark)

    def _trouble(self, watch: Watch, candidate: Candidate, mark: str, error: InvalidInputError) -> None:
        if error.code in _PASSING:
            if watch.postpone(candidate, error.code):
                _log.warning("A slide cannot be read yet; trying again.", exc_info=error)
        else:
            _log.warning("A slide is not taken.", exc_info=error)
            watch.finish(candidate, mark)

    def _tell(self, look: Look, watch: Watch) -> None:
        """Say once what is passed over and what is waited for."""
        told = (look.ignored, tuple(map(str, look.closed)), tuple(map(str, look.links)))
        if told != self._told:
            self._told = told
            _log.info("Files that are no slides are passed over.", count=look.ignored)
            for folder in look.closed:
                _log.warning("A folder cannot be looked into.", folder=str(folder), code="watch-unavailable")
            if look.links:
                _log.warning("Links to folders are not followed.", count=len(look.links))
        for candidate in watch.incomplete():
            with bound(uri=FilePlace(candidate.path).uri):
                _log.warning("A slide waits for files that belong to it.", count=len(candidate.missing))
