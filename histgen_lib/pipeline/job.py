"""What a job is: it takes the data of an event, stores objects, and returns what follows.

While it runs it reports its stages to its caller, and adds up what each took, for the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from histgen_lib.errors import HistgenError
from histgen_lib.events import Data, Event

if TYPE_CHECKING:
    from histgen_lib.inference import InferenceServer
    from histgen_lib.storage import ObjectStore


class Progress(Protocol):
    """Called often, from the thread that runs the job; must return fast and not raise.

    `stage` is one of "open", "grid", "encode", "generate", "render", "store", "withdraw", "compact". In a
    scan's "encode", `done` and `total` count tiles; in every other stage they are 0 and 1, then 1 and 1.
    """

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` steps of `stage` are finished."""


def silent(stage: str, done: int, total: int) -> None:
    """Ignore the report."""


class Stages:
    """Reports each stage to `progress` and adds up its seconds. `clock` is monotonic.

    The seconds of a stage that runs inside another count for the inner one only.
    """

    def __init__(
        self, progress: Progress = silent, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.report = progress
        self._clock = clock
        self._counts: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Run the block as a stage of one step; if it ends in an error, only its seconds count."""
        self.report(stage, 0, 1)
        with self.timed(stage):
            yield
        self.report(stage, 1, 1)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to `stage`, without reporting it, also if it ends in an error."""
        self._charge()
        self._running.append(stage)
        try:
            yield
        finally:
            self._charge()
            self._running.pop()

    def count(self, metric: str, amount: float) -> None:
        """Add to a metric, by its name in `histgen_lib.telemetry.metrics`; a histogram gets the sum."""
        self._counts[metric] = self._counts.get(metric, 0.0) + amount

    def measures(self) -> dict[str, float]:
        """Return seconds, as "stage:<name>", and counts: what a worker adds to its metrics."""
        return {f"stage:{name}": seconds for name, seconds in self.seconds.items()} | self._counts

    def _charge(self) -> None:
        """Add the time since the last change of stage to the innermost stage that runs."""
        now = self._clock()
        if self._running:
            stage = self._running[-1]
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now


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


class ModelInUse(NamedTuple):
    """A network that a job uses.

    `network`: its name on a server. `name`, `digest`: of the model or encoder, as bags and reports record
    them; of the digest the first 12 digits. `engine`: what computes it, see `InferenceServer.engine`.
    """

    network: str
    name: str
    digest: str
    engine: str


class Job(Protocol[In, Out_co]):
    """One step of the stream, without its queues. A worker runs it through `JobHandler`."""

    @property
    def takes(self) -> tuple[type[In], ...]:
        """The classes of the data it works on."""

    def find(self, event: Event, data: In) -> Done[Out_co] | None:
        """Return what `run` would, if all of its objects are there already; opens no slide."""

    def run(self, event: Event, data: In, progress: Progress) -> Done[Out_co]:
        """Do the job: every object is durable when this returns. Doing it twice gives the same bytes."""

    def lacking(self) -> Sequence[str]:
        """Name what the job depends on and cannot reach now; empty when all is well."""

    def models(self) -> Sequence[ModelInUse]:
        """Return the networks it uses, as far as they are known without asking anyone."""


def lacking(server: InferenceServer, model: str, store: ObjectStore) -> list[str]:
    """Name what is missing of a model on a server and an object store; see `Job.lacking`."""
    missing = [] if server.ready(model) else [f"model {model}"]
    try:
        store.head("ready")
    except HistgenError as error:
        missing.append(error.code)
    return missing
