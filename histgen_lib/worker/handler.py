"""What a service gives its worker: how to run its job, and its settings.

A job takes an event, stores objects, and returns the events that follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Data, Event
from histgen_lib.pipeline.job import Done, Job, ModelInUse, Progress
from histgen_lib.runtime.pulse import Backoff
from histgen_lib.runtime.silence import LIMIT_S
from histgen_lib.runtime.web.address import Address

In = TypeVar("In", bound=Data)
Out = TypeVar("Out", bound=Data)


@dataclass(frozen=True)
class Outcome:
    """What a job did: the events to publish, and what to count.

    The parent process adds `measures` to the metrics of those names: seconds of a stage under "stage:<name>",
    counts under a counter's name in `histgen_lib.telemetry.metrics`.
    """

    events: Sequence[Event] = ()
    measures: Mapping[str, float] = field(default_factory=dict)


class Handler(Protocol):
    """What a worker calls. Built once in each child process, by a function that can be pickled.

    Called from one thread, one call at a time. `find` is called before every `handle`, and once more before
    an event is given up: an object that is there outweighs any error.
    """

    def find(self, event: Event) -> Outcome | None:
        """Return the outcome if the job's objects are all there already; cheap, and opens no slide."""
        ...

    def handle(self, event: Event, progress: Progress) -> Outcome:
        """Do the job: every object is durable when this returns. Doing it twice gives the same bytes.

        Raises TransientError to be called again later ("slide-away" if that concerns the slides of one place
        alone), InvalidInputError to have the event dead-lettered. After a FatalError the handler is built
        again: if that raises a FatalError too, the worker stops with the event uncommitted, else the error
        counts as a crash.
        """
        ...

    def ready(self) -> Sequence[str]:
        """Name what the job depends on and cannot reach now; empty when all is well."""
        ...

    def models(self) -> Sequence[ModelInUse]:
        """Return the networks it uses, as far as they are known; asks nobody."""
        ...


class JobHandler(Generic[In, Out]):
    """Runs a Job for a service called `name`. `now`: the time of its events, UTC."""

    def __init__(
        self, job: Job[In, Out], name: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._job, self._name, self._now = job, name, now

    def find(self, event: Event) -> Outcome | None:
        """See Handler."""
        done = self._job.find(event, self._data(event))
        return None if done is None else self._outcome(event, done)

    def handle(self, event: Event, progress: Progress) -> Outcome:
        """See Handler."""
        return self._outcome(event, self._job.run(event, self._data(event), progress))

    def ready(self) -> Sequence[str]:
        """See Handler."""
        return self._job.lacking()

    def models(self) -> Sequence[ModelInUse]:
        """See Handler."""
        return self._job.models()

    def _data(self, event: Event) -> In:
        """Return the event's data. Raises InvalidInputError("event-type") for data of another type."""
        if not isinstance(event.data, self._job.takes):
            taken = " or ".join(kind.type for kind in self._job.takes)
            raise InvalidInputError(
                "event-type",
                f"The {self._name} works on {taken} events; this one is {event.type}.",
                hint="Publish each event on the topic that has the name of its type.",
            )
        return event.data

    def _outcome(self, event: Event, done: Done[Out]) -> Outcome:
        if done.data is None:
            return Outcome((), done.measures)
        following = event.then(done.data, source=f"/histgen/{self._name}", now=self._now())
        if done.event_id is not None:
            following = replace(following, id=done.event_id)
        return Outcome((following,), done.measures)


OPENED = "encode"
"""The stage in which a job has its slide's first tiles."""


@dataclass(frozen=True)
class WorkerSpec:
    """A worker: which events it takes, the job it does with each, and how much patience it has.

    `name`: in metrics and log lines. `groups`: the topics that it takes events from, each with the consumer
    group that its processes share there; events of different topics come in no order. `make_handler`: is
    pickled and called once in each child process, so it is a function of a module, or a functools.partial of
    something that can be pickled. `address`: where it serves metrics, health, its state, and `config`, its
    settings. `deadline_s`: how long a job may take. `opening_s`: how long until it reports a stage called
    `OPENED`, if it has one. `memory_bytes`: how much its process may hold (see `histgen_lib.worker.memory`).
    `max_attempts`: after so many crashes, hangs or unexpected errors an event is given up. `grace_s`: how
    long a running job may go on after SIGTERM; whatever sends the signal should wait ten seconds more.
    `frozen_s`: a job's process that has been stopped (SIGSTOP) for so long is replaced; 0: never. `start_s`:
    how long `make_handler` may take. `letters`, `retries`: codes of dead letters and of retries, and
    `stages`: names of its jobs' stages, which its metrics show at 0 from the start. `drafts`: it publishes
    drafts, whose age since the scan is measured.
    """

    name: str
    groups: Mapping[str, str]
    make_handler: Callable[[], Handler]
    address: Address
    deadline_s: float = 1800.0
    opening_s: float = math.inf
    memory_bytes: float = math.inf
    max_attempts: int = 5
    grace_s: float = 20.0
    frozen_s: float = LIMIT_S
    start_s: float = 300.0
    backoff: Backoff = field(default_factory=Backoff)
    letters: tuple[str, ...] = ()
    retries: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    drafts: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The source of its dead-letter events."""
        return f"/histgen/{self.name}"
