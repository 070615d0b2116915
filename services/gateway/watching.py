"""Watches a folder: scan it, wait until a slide is complete, submit it, and keep going whatever fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from histgen_lib.access.places import FilePlace
from histgen_lib.errors import InvalidInputError
from histgen_lib.runtime.loops import Loop, LoopContext
from histgen_lib.runtime.pulse import STEP_S, in_background
from histgen_lib.telemetry import bound, get_logger
from services.gateway.contents import mark_of
from services.gateway.folder import Candidate, Folder, Look
from services.gateway.intake import Intake
from services.gateway.submission import Submission

_FIRST_DELAY_S, _MOST_DELAY_S, _MOST_TRIES = 1.0, 60.0, 16

_TEMPORARY = frozenset(
    {"slide-missing", "slide-unreadable", "slide-changed", "slide-incomplete", "slide-open-timeout"}
)
"""Problems of a file that may go away by themselves; others stay until the file changes."""

_SPARING = 3
"""The pause after a scan is at least so many times as long as the scan: a slow share has others to serve."""

_CALM_SPARING, _CALM_MOST_S = 200, 15.0
"""With nothing to do, the same in CPU time, up to so many seconds: a large folder must not cost a percent."""

_log = get_logger()


@dataclass
class _Track:
    """A slide that is being watched. `since`: when its files were first seen in this state."""

    candidate: Candidate
    mark: str
    since: float
    due: float = 0.0
    tries: int = 0
    trouble: str = ""


class Tracker:
    """Decides when a slide is complete: all its files exist, and none has changed for `settle_s`.

    Slides that were dealt with are known by their state (`done`), not by having been there all the time, so a
    share that goes away and comes back is not read again. `clock`: monotonic seconds.
    """

    def __init__(self, *, settle_s: float, clock: Callable[[], float], done: Iterable[str] = ()) -> None:
        self._settle_s, self._clock = settle_s, clock
        self._done = set(done)
        self._tracks: dict[str, _Track] = {}

    def complete(self, look: Look) -> list[tuple[Candidate, str]]:
        """Return the complete slides that are not dealt with, each with its mark.

        Those tried least come first, then those that wait longest, so that many unreadable slides hold up no
        other.
        """
        now = self._clock()
        self._tracks = {str(found.path): self._follow(found, now) for found in look.candidates}
        due = [track for track in self._tracks.values() if self._is_due(track, now)]
        return [
            (track.candidate, track.mark)
            for track in sorted(due, key=lambda track: (track.tries, track.since))
        ]

    def finish(self, mark: str) -> None:
        """Note that a slide in this state is dealt with for good."""
        self._done.add(mark)

    def postpone(self, candidate: Candidate, code: str) -> bool:
        """Have a slide tried again, after longer and longer delays. Returns whether its problem is new."""
        track = self._tracks[str(candidate.path)]
        track.due = self._clock() + min(_MOST_DELAY_S, _FIRST_DELAY_S * 2**track.tries)
        track.tries = min(track.tries + 1, _MOST_TRIES)
        is_new, track.trouble = track.trouble != code, code
        return is_new

    def incomplete(self) -> list[Candidate]:
        """Return the slides whose files stopped arriving before all were there, each once."""
        now = self._clock()
        stuck = [
            track
            for track in self._tracks.values()
            if track.candidate.missing and now - track.since >= self._settle_s and not track.trouble
        ]
        for track in stuck:
            track.trouble = "incomplete"
        return [track.candidate for track in stuck]

    @property
    def waiting(self) -> int:
        """Return how many slides in the folder are not dealt with."""
        return sum(track.mark not in self._done for track in self._tracks.values())

    @property
    def tracked(self) -> int:
        """Return how many slides the last scan found."""
        return len(self._tracks)

    def _follow(self, found: Candidate, now: float) -> _Track:
        known = self._tracks.get(str(found.path))
        if known and known.candidate.files == found.files:
            known.candidate = found
            return known
        return _Track(found, mark_of(FilePlace(found.path).uri, found.files), since=now)

    def _is_due(self, track: _Track, now: float) -> bool:
        return (
            track.mark not in self._done
            and not track.candidate.missing
            and now - track.since >= self._settle_s
            and now >= track.due
        )


class Watching(Loop):
    """Watches one folder tree.

    `settle_s`: how long a slide's files must not change. `look_s`: the pause between two scans. `still_s`:
    how long a scan may stand still at one place; then that place is left out until it answers. `clock`:
    monotonic seconds, as the folder's.
    """

    name = "watch"

    def __init__(
        self,
        context: LoopContext,
        folder: Folder,
        intake: Intake,
        *,
        settle_s: float,
        look_s: float,
        still_s: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(context)
        self._folder, self._intake, self._clock = folder, intake, clock
        self._settle_s, self._look_s, self._still_s = settle_s, look_s, still_s
        self._hanging: dict[Path, Future[tuple[Look, float]]] = {}
        self._tracker: Tracker | None = None
        self._logged: tuple[int, list[Path], list[Path]] = (0, [], [])

    @property
    def waiting(self) -> int:
        """Return how many slides in the folder are not dealt with."""
        return self._tracker.waiting if self._tracker else 0

    @property
    def tracked(self) -> int:
        """Return how many slides the last scan found."""
        return self._tracker.tracked if self._tracker else 0

    def turn(self) -> None:
        """Scan once and submit the complete slides; a long backlog is interrupted by new scans."""
        tracker = self._tracker = self._tracker or self._start()
        started = self._clock()
        look, cpu_s = self._scan()
        scanned = self._clock()
        self._log_new(look, tracker)
        for candidate, mark in tracker.complete(look):
            self._submit(tracker, candidate, mark)
            if self._stop.requested or self._clock() - scanned > self._look_s:
                return
        calm_s = 0.0 if self.waiting else min(_CALM_MOST_S, _CALM_SPARING * cpu_s)
        self.pause(max(self._look_s, calm_s, _SPARING * (scanned - started)))

    def _scan(self) -> tuple[Look, float]:
        """Scan once; return the CPU time as well. A place that hangs is left out."""
        hanging = {at: future for at, future in self._hanging.items() if not future.done()}
        if len(hanging) < len(self._hanging):
            self._leave_out(hanging)
        future = in_background(partial(_timed_look, self._folder))
        while not wait([future], STEP_S).done:
            self._pulse.beat()
            at = self._folder.at
            if self._clock() - self._folder.since > self._still_s:
                if at == self._folder.root:
                    self._board.lacks(self.name, "watch-unavailable")
                    continue
                _log.warning(
                    "A place in the folder does not answer; the scan goes on without it.", folder=str(at)
                )
                self._leave_out({**self._hanging, at: future})
                future = in_background(partial(_timed_look, self._folder))
        return future.result()

    def _leave_out(self, hanging: dict[Path, Future[tuple[Look, float]]]) -> None:
        self._hanging = hanging
        self._folder = self._folder.but(frozenset(hanging))

    def _start(self) -> Tracker:
        """Learn from the ledger which slides need no second look."""
        done = self.background(lambda: set(self._intake.ledger.all_seen()))
        _log.info("Watching.", folder=str(self._folder.root), count=len(done))
        return Tracker(settle_s=self._settle_s, clock=self._clock, done=done)

    def _submit(self, tracker: Tracker, candidate: Candidate, mark: str) -> None:
        place = FilePlace(candidate.path)
        submission = Submission(place, "watch", mark=mark)
        try:
            self.insist(partial(self._intake.submit, submission))
        except InvalidInputError as error:
            with bound(uri=place.uri):
                self._refused(tracker, candidate, mark, error)
        else:
            tracker.finish(mark)

    def _refused(self, tracker: Tracker, candidate: Candidate, mark: str, error: InvalidInputError) -> None:
        if error.code in _TEMPORARY:
            if tracker.postpone(candidate, error.code):
                _log.warning("A slide cannot be read yet; trying again.", exc_info=error)
        else:
            _log.warning("A slide is refused.", exc_info=error)
            tracker.finish(mark)

    def _log_new(self, look: Look, tracker: Tracker) -> None:
        """Log what is skipped and which slides wait for files, when that changes."""
        skipped = (look.ignored, look.closed, look.links)
        if skipped != self._logged:
            self._logged = skipped
            _log.info("Files that are not slides are skipped.", count=look.ignored)
            for folder in look.closed:
                _log.warning("A folder cannot be listed.", folder=str(folder), code="watch-unavailable")
            if look.links:
                _log.warning("Links to folders are not followed.", count=len(look.links))
        for candidate in tracker.incomplete():
            with bound(uri=FilePlace(candidate.path).uri):
                _log.warning("A slide waits for the rest of its files.", count=len(candidate.missing))


def _timed_look(folder: Folder) -> tuple[Look, float]:
    before = time.thread_time()
    return folder.look(), time.thread_time() - before
