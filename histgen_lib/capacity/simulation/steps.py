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
    """A server that divides itself equally among all that use it: Triton with tiles of many slides.

    `capacity`: what it does in a second. `most`: what it can do for one job in a second, as that job brings
    its work no faster. `amount`: the work, by slide. Every job gets min(most, capacity / jobs).

    All jobs advance alike, so a job is over when the progress that each has made since the beginning of time
    reaches the job's own mark: one heap of marks, whatever the number of jobs.
    """

    def __init__(self, loop: Loop, capacity: float, most: float, amount: Sequence[float]) -> None:
        self._loop, self._most, self._amount = loop, most, amount
        self.capacity = capacity
        self.jobs = 0
        self.done = 0.0
        self._progress, self._at = 0.0, 0.0
        self._marks: list[tuple[float, int, Job, Then]] = []
        self._begun = self._turn = 0

    def begin(self, job: Job, then: Then) -> None:
        """See Step."""
        self._advance()
        self._begun += 1
        self.jobs += 1
        heappush(self._marks, (self._progress + self._amount[job.slide], self._begun, job, then))
        self._plan()

    def drop(self, job: Job) -> None:
        """See Step."""
        self._advance()
        self.jobs -= 1
        self._marks = sorted(mark for mark in self._marks if mark[2] is not job)
        self._plan()

    def resize(self, capacity: float) -> None:
        """Have another capacity from now on."""
        self._advance()
        self.capacity = capacity
        self._plan()

    @property
    def rate(self) -> float:
        """What each job gets in a second."""
        return min(self._most, self.capacity / self.jobs) if self.jobs else self._most

    def work_done(self) -> float:
        """Return the work done so far."""
        self._advance()
        return self.done

    def _advance(self) -> None:
        passed = self._loop.now - self._at
        if passed > 0 and self.jobs:
            gained = self.rate * passed
            self._progress += gained
            self.done += gained * self.jobs
        self._at = self._loop.now

    def _plan(self) -> None:
        """Schedule the next end; what was scheduled before counts no more."""
        self._turn += 1
        if self._marks and self.rate > 0:
            self._loop.after(max(0.0, self._marks[0][0] - self._progress) / self.rate, self._end, self._turn)

    def _end(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._advance()
        mark, _, job, then = heappop(self._marks)
        self._progress = max(self._progress, mark)
        self.jobs -= 1
        self._plan()
        then(job)
