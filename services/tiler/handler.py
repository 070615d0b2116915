"""The tiler's job: an event in, the slide's bag in the store, the next event out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from histgen_lib.catalogue.registry import keep, take_in
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import BagReady, Event, SlideScanned
from histgen_lib.pipeline.progress import Progress
from histgen_lib.pipeline.scan.job import ScanJob
from histgen_lib.worker import Outcome
from services.wiring import lacking

SOURCE = "/histgen/tiler"
MODEL = "tile_encoder"


class Tiler:
    """See `histgen_lib.worker.Handler`. `now`: the time of events, UTC."""

    def __init__(self, job: ScanJob, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._job, self._now = job, now

    def find(self, event: Event) -> Outcome | None:
        """See Handler."""
        data = self._taken(event)
        found = self._job.find(data)
        if found is None:
            return None
        keep(self._job.store, event, data)
        return Outcome((self._next(event, found),))

    def handle(self, event: Event, progress: Progress) -> Outcome:
        """See Handler. A person who has a slide tried again may have mended it: it is taken as it is now."""
        data = self._taken(event)
        made = self._job.run(data, progress, as_found=event.replay > 0)
        keep(self._job.store, event, replace(data, content_id=made.data.content_id))
        return Outcome((self._next(event, made.data),), made.measures)

    def ready(self) -> Sequence[str]:
        """See Handler."""
        return lacking(self._job.server, MODEL, self._job.store)

    def _taken(self, event: Event) -> SlideScanned:
        """Write the slide down if nobody did, and refuse one whose id is another's."""
        _require_scan(event)
        return take_in(self._job.store, event)

    def _next(self, event: Event, ready: BagReady) -> Event:
        return event.then(ready, source=SOURCE, now=self._now())


def _require_scan(event: Event) -> None:
    if not isinstance(event.data, SlideScanned):
        raise InvalidInputError(
            "event-type",
            "An event on the tiler's topic is none of a scanned slide.",
            hint="Publish each event to the topic of its type.",
        )
