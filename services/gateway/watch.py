"""When a slide in the watched folder is whole: its files are all there, and none changed for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from histgen_lib.access.places import FilePlace
from services.gateway.contents import mark_of
from services.gateway.folder import Candidate, Look

_FIRST_DELAY_S, _MOST_DELAY_S = 1.0, 60.0


@dataclass
class _Track:
    """A slide that is being watched. `since`: when its files were first seen in this state."""

    candidate: Candidate
    mark: str
    since: float
    due: float = 0.0
    tries: int = 0
    trouble: str = ""


class Watch:
    """Keeps track from look to look. `clock`: monotonic seconds; `done`: states dealt with before.

    What was dealt with is known by its state, not by having been there all the time: a share that goes away
    and comes back is not read again.
    """

    def __init__(self, *, settle_s: float, clock: Callable[[], float], done: Iterable[str] = ()) -> None:
        self._settle_s, self._clock = settle_s, clock
        self._done = set(done)
        self._tracks: dict[str, _Track] = {}

    def whole(self, look: Look) -> list[tuple[Candidate, str]]:
        """Return what is whole and not dealt with, each with its mark.

        What was tried least comes first, then what waits longest: many that cannot be read hold up no other.
        """
        now = self._clock()
        self._tracks = {str(found.path): self._follow(found, now) for found in look.candidates}
        due = [track for track in self._tracks.values() if self._is_due(track, now)]
        return [
            (track.candidate, track.mark)
            for track in sorted(due, key=lambda track: (track.tries, track.since))
        ]

    def finish(self, candidate: Candidate, mark: str) -> None:
        """Note that this state was dealt with, for good."""
        self._done.add(mark)

    def postpone(self, candidate: Candidate, code: str) -> bool:
        """Try again later, and later each time. True if the trouble is news."""
        track = self._tracks[str(candidate.path)]
        track.due = self._clock() + min(_MOST_DELAY_S, _FIRST_DELAY_S * 2**track.tries)
        track.tries = min(track.tries + 1, 16)
        news, track.trouble = track.trouble != code, code
        return news

    def incomplete(self) -> list[Candidate]:
        """Return those whose files stopped coming before all were there, each once."""
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
        """Count the slides that are there and not dealt with."""
        return sum(track.mark not in self._done for track in self._tracks.values())

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
