"""A topic and the group of workers that take from it: who gets which record, and when.

The rules are the bus's own: a key's partition, how members share partitions (`histgen_lib.bus`), one record
at a time, oldest first; a member that stops finishes its record within its grace, or hands it back; the
partitions of one that died move once its session has run out; a job that failed is set aside while others
pass it.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from histgen_lib.bus._sharing import Holding, share
from histgen_lib.capacity.simulation.loop import Loop
from histgen_lib.capacity.simulation.steps import Job, Step

NAN = float("nan")


@dataclass(frozen=True)
class Patience:
    """The settings of a worker that matter for waiting, and how often its jobs fail.

    `fails`: share of attempts that crash. `look_s`: how long an idle member takes to notice a record.
    """

    session_s: float = 10.0
    grace_s: float = 1800.0
    fails: float = 0.0
    max_attempts: int = 5
    first_delay_s: float = 0.5
    most_delay_s: float = 30.0
    look_s: float = 0.0

    def delay_s(self, attempt: int) -> float:
        """Return how long a job is set aside after its attempt of that number: the mean of the real one."""
        return 0.75 * min(self.most_delay_s, self.first_delay_s * 2.0 ** (attempt - 1))


class Member:
    """A worker, as its group sees it."""

    __slots__ = ("dead", "job", "left", "name", "partitions", "pending", "stopping")

    def __init__(self, name: str, left: Callable[[], None]) -> None:
        self.name, self.left = name, left
        self.partitions: list[int] = []
        self.pending: set[int] = set()  # those of them in which a record waits
        self.job: Job | None = None
        self.stopping = self.dead = False


class Station:
    """A topic with its workers.

    `where`: the partition of each slide's record. `steps`: of every job. `ended`: called with the slide and
    whether it was done; otherwise it has become a dead letter.

    `arrived`, `began`, `done`: by slide, in seconds; `began` is the last attempt's. `lag`: uncommitted
    records by partition, as the broker tells an autoscaler.
    """

    def __init__(
        self,
        loop: Loop,
        name: str,
        where: Sequence[int],
        partitions: int,
        *,
        steps: Sequence[Step],
        ended: Callable[[int, bool], None],
        patience: Patience | None = None,
        chance: Random | None = None,
    ) -> None:
        self._loop, self.name, self._where, self._steps, self._ended = loop, name, where, steps, ended
        self._patience, self._chance = patience or Patience(), chance or Random(0)
        self._queues: list[deque[int]] = [deque() for _ in range(partitions)]
        self._owner: list[Member | None] = [None] * partitions
        self._members: dict[str, Member] = {}
        self._sharing = False
        self._tries: dict[int, int] = {}
        self.lag = [0] * partitions
        self.waiting = self.redone = self.attempts = 0
        self.busy_s = 0.0
        self.arrived, self.began, self.done = (array("d", [NAN]) * len(where) for _ in range(3))

    def arrive(self, slide: int) -> None:
        """Publish the record of a slide."""
        partition = self._where[slide]
        self.arrived[slide] = self._loop.now
        self.lag[partition] += 1
        self.waiting += 1
        self._queues[partition].append(slide)
        self._note(partition)

    def join(self, name: str, left: Callable[[], None] = lambda: None) -> None:
        """Add a member; `left` is called once it has left."""
        self._members[name] = Member(name, left)
        self._share_soon()

    def stop(self, name: str) -> None:
        """Tell a member to stop, as SIGTERM does."""
        member = self._members[name]
        member.stopping = True
        if member.job is None:
            self._leave(member)
        else:
            self._loop.after(self._patience.grace_s, self._grace_over, member, member.job)

    def kill(self, name: str) -> None:
        """End a member without a word: its partitions wait until its session has run out."""
        member = self._members[name]
        member.dead = True
        job = self._drop(member)
        self._loop.after(self._patience.session_s, self._expire, member, job)

    def _expire(self, member: Member, job: Job | None) -> None:
        if job is not None:
            self._redo(job.slide)
        self._leave(member)

    def _grace_over(self, member: Member, job: Job) -> None:
        if member.job is job:
            self._drop(member)
            self._redo(job.slide)
            self._leave(member)

    def _drop(self, member: Member) -> Job | None:
        job, member.job = member.job, None
        if job is not None:
            job.alive = False
            self.busy_s += self._loop.now - self.began[job.slide]
            self._steps[job.step].drop(job)
        return job

    def _leave(self, member: Member) -> None:
        del self._members[member.name]
        member.dead = True
        for partition in member.partitions:
            self._owner[partition] = None
        self._share_soon()
        member.left()

    def _redo(self, slide: int) -> None:
        """Deliver a record again, before all others of its partition."""
        self.redone += 1
        self._again(slide)

    def _again(self, slide: int) -> None:
        self.waiting += 1
        partition = self._where[slide]
        self._queues[partition].appendleft(slide)
        self._note(partition)

    def _note(self, partition: int) -> None:
        """Tell the partition's member, if it has one, that a record waits there."""
        member = self._owner[partition]
        if member is not None:
            member.pending.add(partition)
            self._wake(member)

    def _share_soon(self) -> None:
        """Share the partitions out once for all that come and go at this moment."""
        if not self._sharing:
            self._sharing = True
            self._loop.after(0.0, self._share)

    def _share(self) -> None:
        self._sharing = False
        holdings = {name: self._holding(member) for name, member in self._members.items()}
        for name, partitions in share(range(len(self._queues)), holdings).items():
            member = self._members[name]
            member.partitions = sorted(partitions)
            member.pending = {partition for partition in partitions if self._queues[partition]}
            for partition in member.partitions:
                self._owner[partition] = member
        for member in list(self._members.values()):
            self._wake(member)

    def _holding(self, member: Member) -> Holding:
        busy = frozenset([self._where[member.job.slide]] if member.job else [])
        return Holding(frozenset(member.partitions), busy)

    def _wake(self, member: Member) -> None:
        if member.job is None and not member.dead and not member.stopping:
            self._take(member, self._patience.look_s)

    def _take(self, member: Member, look_s: float) -> None:
        """Begin with the oldest record of the member's partitions, if there is one."""
        if not member.pending:
            return
        oldest = min(member.pending, key=lambda part: self.arrived[self._queues[part][0]])
        queue = self._queues[oldest]
        slide = queue.popleft()
        if not queue:
            member.pending.remove(oldest)
        self._begin(member, slide, look_s)

    def _begin(self, member: Member, slide: int, look_s: float) -> None:
        self.waiting -= 1
        self.attempts += 1
        fails = self._patience.fails > 0 and self._chance.random() < self._patience.fails
        member.job = job = Job(slide, member, fails=fails)
        if look_s:
            self.began[slide] = self._loop.now + look_s
            self._loop.after(look_s, self._first_step, job)
        else:
            self.began[slide] = self._loop.now
            self._steps[0].begin(job, self._step_over)

    def _first_step(self, job: Job) -> None:
        if job.alive:
            self._steps[0].begin(job, self._step_over)

    def _step_over(self, job: Job) -> None:
        if not job.alive:
            return
        if job.fails:
            self._fail(job)
        elif job.step + 1 < len(self._steps):
            job.step += 1
            self._steps[job.step].begin(job, self._step_over)
        else:
            self._end(job, done=True)

    def _fail(self, job: Job) -> None:
        """Set the record aside, or give it up."""
        slide = job.slide
        tries = self._tries[slide] = self._tries.get(slide, 0) + 1
        if tries >= self._patience.max_attempts:
            self._end(job, done=False)
            return
        self.redone += 1
        self._loop.after(self._patience.delay_s(tries), self._again, slide)
        self._next(job)

    def _end(self, job: Job, *, done: bool) -> None:
        slide = job.slide
        self.lag[self._where[slide]] -= 1
        self.done[slide] = self._loop.now
        self._ended(slide, done)
        self._next(job)

    def _next(self, job: Job) -> None:
        """Have the member go on, or leave."""
        job.alive = False
        self.busy_s += self._loop.now - self.began[job.slide]
        member = job.member
        assert isinstance(member, Member)
        member.job = None
        if member.stopping:
            self._leave(member)
        else:
            self._take(member, 0.0)
