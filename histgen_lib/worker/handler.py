"""What a service gives the worker: its job, and what the job answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from histgen_lib.events import Event
from histgen_lib.pipeline.progress import Progress


@dataclass(frozen=True)
class Outcome:
    """What a job did: the events to publish, and what to count.

    `measures` are added to the metrics of those names by the parent process: seconds of a stage under
    "stage:<name>", counts under a counter's name in `histgen_lib.telemetry.metrics`.
    """

    events: Sequence[Event] = ()
    measures: Mapping[str, float] = field(default_factory=dict)


class Handler(Protocol):
    """A service's job. Made once in each child process, by a function that can be pickled.

    Called from one thread, one call at a time. `find` is asked before every `handle`, and once more before an
    event is given up: an object that is there wins over any error.
    """

    def find(self, event: Event) -> Outcome | None:
        """Return the outcome if the job's objects are all there already; cheap, and opens no slide."""
        ...

    def handle(self, event: Event, progress: Progress) -> Outcome:
        """Do the job: every object is durable when this returns. Doing it twice gives the same bytes.

        Raises TransientError to be called again later ("slide-away" if that concerns the slides of one place
        alone), InvalidInputError to have the event dead-lettered. A FatalError has the handler made anew: if
        that raises one, too, the worker stops with the event uncommitted, else it counts as a crash.
        """
        ...

    def ready(self) -> Sequence[str]:
        """Name what the job depends on and is not there now; empty when all is well."""
        ...
