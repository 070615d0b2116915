"""What a job is: it takes the data of one type of event, stores objects, and returns what follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from histgen_lib.errors import HistgenError
from histgen_lib.events import Data, Event
from histgen_lib.pipeline.stages import Progress

if TYPE_CHECKING:
    from histgen_lib.inference import InferenceServer
    from histgen_lib.storage import ObjectStore

In = TypeVar("In", bound=Data)
Out_co = TypeVar("Out_co", bound=Data, covariant=True)


@dataclass(frozen=True)
class Done(Generic[Out_co]):
    """A finished job: the data of the event that follows, and what to add to the metrics.

    `data` is None where nothing follows yet. `event_id` replaces the following event's own id where several
    events lead to the same result, such as the one report of a case.
    """

    data: Out_co | None
    measures: Mapping[str, float] = field(default_factory=dict)
    event_id: str | None = None


class Job(Protocol[In, Out_co]):
    """One step of the stream, without its queues. A worker runs it through `JobHandler`."""

    @property
    def takes(self) -> type[In]:
        """The class of the data it works on."""

    def find(self, event: Event, data: In) -> Done[Out_co] | None:
        """Return what `run` would, if all of its objects are there already; opens no slide."""

    def run(self, event: Event, data: In, progress: Progress) -> Done[Out_co]:
        """Do the job: every object is durable when this returns. Doing it twice gives the same bytes."""

    def lacking(self) -> Sequence[str]:
        """Name what the job depends on and cannot reach now; empty when all is well."""


def lacking(server: InferenceServer, model: str, store: ObjectStore) -> list[str]:
    """Name what is missing of a model on a server and an object store; see `Job.lacking`."""
    missing = [] if server.ready(model) else [f"model {model}"]
    try:
        store.head("ready")
    except HistgenError as error:
        missing.append(error.code)
    return missing
