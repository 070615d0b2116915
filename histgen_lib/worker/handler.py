"""How a worker runs a job: an event in, the job's objects in the store, the events that follow out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar

from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Data, Event
from histgen_lib.pipeline.job import Done, Job
from histgen_lib.pipeline.stages import Progress

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

    def _data(self, event: Event) -> In:
        """Return the event's data. Raises InvalidInputError("event-type") for data of another type."""
        if not isinstance(event.data, self._job.takes):
            raise InvalidInputError(
                "event-type",
                f"The {self._name} works on {self._job.takes.type} events; this one is {event.type}.",
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
