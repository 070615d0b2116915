"""What goes through the pipe between a worker and the child process that runs its jobs.

Pickled: both ends are the same program, started by one another. The parent sends Find, Handle or Check and
waits for an Answer or a Failed (Checked for Check) before it sends the next Find or Handle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from histgen_lib.errors import HistgenError
from histgen_lib.events import Event
from histgen_lib.worker.handler import Outcome


@dataclass(frozen=True)
class Find:
    """Ask `handler.find`."""

    event: Event


@dataclass(frozen=True)
class Handle:
    """Ask `handler.handle`."""

    event: Event
    attempt: int


@dataclass(frozen=True)
class Check:
    """Ask `handler.ready`."""


@dataclass(frozen=True)
class Started:
    """The handler is made."""


@dataclass(frozen=True)
class Told:
    """How far a job is; see `histgen_lib.pipeline.stages`."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Answer:
    """What a job came to; None from a `find` that found nothing."""

    outcome: Outcome | None


@dataclass(frozen=True)
class Checked:
    """What `handler.ready` misses."""

    missing: Sequence[str]


@dataclass(frozen=True)
class Failed:
    """A job's own error, or the name of the exception's type if nobody had foreseen it."""

    error: HistgenError | None
    unforeseen: str = ""


Request = Find | Handle | Check
Message = Started | Told | Answer | Checked | Failed


def plain(outcome: Outcome | None) -> Outcome | None:
    """Reduce an outcome to values that any process can unpickle; TypeError if it is none."""
    if outcome is None:
        return None
    if not all(isinstance(event, Event) for event in outcome.events):
        raise TypeError("events")
    measures: Mapping[str, float] = {str(name): float(value) for name, value in outcome.measures.items()}
    return Outcome(tuple(outcome.events), dict(measures))
