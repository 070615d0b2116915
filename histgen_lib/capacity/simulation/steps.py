"""What a job is made of: time of its own, and work on a server that all jobs share.

A step calls `then` with the job once it is over, unless the job was dropped meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from histgen_lib.capacity.simulation.loop import Loop


class Job:
    """One attempt of a worker at a slide. `step`: the number of the step that it is in."""

    __slots__ = ("alive", "fails", "member", "slide", "step")

    def __init__(self, slide: int, member: object, *, fails: bool = False) -> None:
        self.slide, self.member, self.fails = slide, member, fails
        self.step, self.alive = 0, True


Then = Callable[[Job], None]


class Step(Protocol):
    """A part of every job of a service."""

    def begin(self, job: Job, then: Then) -> None:
        """Start it."""
        ...

    def drop(self, job: Job) -> None:
        """Forget a job that is over before this step is."""
        ...


class Delay:
    """Time that depends on the slide alone. `seconds`: by slide."""

    def __init__(self, loop: Loop, seconds: Sequence[float]) -> None:
        self._loop, self._seconds = loop, seconds

    def begin(self, job: Job, then: Then) -> None:
        """See Step."""
        self._loop.after(self._seconds[job.slide], then, job)

    def drop(self, job: Job) -> None:
        """See Step: its end comes, and finds the job dead."""


class SharedServer:
    """Servers that divide themselves equally among all that use them: GPUs with the work of many slides.

    `capacity`: how many servers there are. A job alone advances by a second in a second, and takes up a share
    of one server meanwhile; when the shares of all come to more than there is, all are slowed down alike.

    So a job is over when the progress that each has made since the beginning of time reaches the job's own
    mark: one heap of marks, whatever the number of jobs.
    """

    def __init__(self, loop: Loop, capacity: float) -> None:
        self._loop = loop
        self.capacity = capacity
        self._wanted = self._busy_s = 0.0
        self._progress, self._at = 0.0, 0.0
        self._marks: list[tuple[float, int, float, Job, Then]] = []
        self._begun = self._turn = 0

    def step(self, seconds: Sequence[float], share: float = 1.0) -> Step:
        """Return a step of jobs that would take `seconds` alone, by slide, and a `share` of one server."""
        return _Use(self, seconds, share)

    def begin(self, job: Job, then: Then, seconds: float, share: float) -> None:
        """Add a job."""
        self._advance()
        self._begun += 1
        self._wanted += share
        heappush(self._marks, (self._progress + seconds, self._begun, share, job, then))
        self._plan()

    def drop(self, job: Job) -> None:
        """Forget a job before its end."""
        self._advance()
        dropped = next(mark for mark in self._marks if mark[3] is job)
        self._marks = sorted(mark for mark in self._marks if mark is not dropped)
        self._left(dropped[2])
        self._plan()

    def resize(self, capacity: float) -> None:
        """Have another capacity from now on."""
        self._advance()
        self.capacity = capacity
        self._plan()

    def busy_s(self) -> float:
        """Return the server seconds that were taken up so far."""
        self._advance()
        return self._busy_s

    @property
    def _pace(self) -> float:
        """By how much each job advances in a second."""
        return min(1.0, self.capacity / self._wanted) if self._marks else 1.0

    def _advance(self) -> None:
        passed = self._loop.now - self._at
        if passed > 0 and self._marks:
            gained = self._pace * passed
            self._progress += gained
            self._busy_s += gained * self._wanted
        self._at = self._loop.now

    def _left(self, share: float) -> None:
        self._wanted = self._wanted - share if self._marks else 0.0

    def _plan(self) -> None:
        """Schedule the next end; what was scheduled before counts no more."""
        self._turn += 1
        if self._marks and self._pace > 0:
            self._loop.after(max(0.0, self._marks[0][0] - self._progress) / self._pace, self._end, self._turn)

    def _end(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._advance()
        mark, _, share, job, then = heappop(self._marks)
        self._progress = max(self._progress, mark)
        self._left(share)
        self._plan()
        then(job)


class _Use:
    """The time on a shared server."""

    def __init__(self, server: SharedServer, seconds: Sequence[float], share: float) -> None:
        self._server, self._seconds, self._share = server, seconds, share

    def begin(self, job: Job, then: Then) -> None:
        """See Step."""
        self._server.begin(job, then, self._seconds[job.slide], self._share)

    def drop(self, job: Job) -> None:
        """See Step."""
        self._server.drop(job)
