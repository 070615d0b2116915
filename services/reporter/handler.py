"""The reporter's job: an event in, a report in the store, the next event out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from histgen_lib.errors import InvalidInputError
from histgen_lib.events import BagReady, Event, ReportDrafted
from histgen_lib.files import sha256_hex
from histgen_lib.pipeline.draft.job import DraftJob
from histgen_lib.pipeline.progress import Progress
from histgen_lib.worker import Outcome
from services.wiring import lacking

SOURCE = "/histgen/reporter"
MODEL = "histgen"


class Reporter:
    """See `histgen_lib.worker.Handler`. `now`: the time of events, UTC."""

    def __init__(self, job: DraftJob, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._job, self._now = job, now

    def find(self, event: Event) -> Outcome | None:
        """See Handler."""
        found = self._job.find(_bag(event))
        return None if found is None else Outcome(self._next(event, found.data))

    def handle(self, event: Event, progress: Progress) -> Outcome:
        """See Handler."""
        made = self._job.run(_bag(event), progress)
        return Outcome(self._next(event, made.data), made.measures)

    def ready(self) -> Sequence[str]:
        """See Handler."""
        return lacking(self._job.server, MODEL, self._job.store)

    def _next(self, event: Event, drafted: ReportDrafted | None) -> tuple[Event, ...]:
        """Tell of the draft; of a slide that waits for others of its case there is nothing to tell.

        The last slides of a case may race: what they tell of the one report is the same event.
        """
        if drafted is None:
            return ()
        told = event.then(drafted, source=SOURCE, now=self._now())
        if drafted.case_id is not None:
            told = replace(told, id=sha256_hex(f"{told.type}|case|{drafted.draft_key}".encode())[:32])
        return (told,)


def _bag(event: Event) -> BagReady:
    if not isinstance(event.data, BagReady):
        raise InvalidInputError(
            "event-type",
            "An event on the reporter's topic is none of a bag that is ready.",
            hint="Publish each event to the topic of its type.",
        )
    return event.data
