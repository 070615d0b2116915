"""Shows how much waits for each worker, as the broker has it: also while no worker runs to say so."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from histgen_lib.bus import Backlog, Waiting
from histgen_lib.errors import HistgenError
from histgen_lib.runtime.loops import Loop, LoopContext
from histgen_lib.telemetry import get_logger, metrics
from services.table import Service

LOOK_S = 15.0
"""How often the broker is asked."""

_log = get_logger()


class BacklogWatch(Loop):
    """Asks the broker every `look_s` seconds. Its failures neither stop the gateway nor make it unready.

    While the broker does not answer, nothing is shown. `workers`: rows of the table that take events. `now`:
    seconds since 1970.
    """

    name = "backlog"

    def __init__(
        self,
        context: LoopContext,
        open_backlog: Callable[[], Backlog],
        workers: Sequence[Service],
        *,
        look_s: float = LOOK_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(context)
        self._open, self._workers, self._look_s, self._now = open_backlog, workers, look_s, now
        self._backlog: Backlog | None = None
        self._trouble = ""

    def turn(self) -> None:
        """Look once, then wait."""
        self._pulse.drop()  # a look is no work that a stop has to wait for
        try:
            found = self.background(self._look)
        except HistgenError as error:
            metrics.hide_backlog()
            if self._trouble != error.code:
                _log.warning("The broker does not tell what waits.", exc_info=error)
            self._trouble = error.code
        else:
            self._trouble = ""
            for worker, waiting in found.items():
                self._show(worker, waiting)
        self.pause(self._look_s)

    def close(self) -> None:
        """Close the connection."""
        metrics.hide_backlog()
        if self._backlog:
            self._backlog.close()

    def _look(self) -> dict[str, list[dict[int, Waiting]]]:
        """Return what waits for each worker, topic by topic."""
        backlog = self._backlog = self._backlog or self._open()
        return {
            row.name: [backlog.waiting(topic, group) for topic, group in row.groups.items()]
            for row in self._workers
        }

    def _show(self, worker: str, waiting: Sequence[Mapping[int, Waiting]]) -> None:
        records = Counter[int]()
        for topic in waiting:
            records.update({partition: one.records for partition, one in topic.items()})
        found = [one for topic in waiting for one in topic.values()]
        since = [one.oldest_at for one in found if one.oldest_at is not None]
        unknown = math.nan if any(records.values()) else 0.0
        metrics.show_backlog(worker, records, max(0.0, self._now() - min(since)) if since else unknown)
