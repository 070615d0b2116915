"""Publishes the events of signatures and withdrawals that somebody died before publishing."""

from __future__ import annotations

import time
from collections.abc import Callable

from histgen_lib.bus import Publisher
from histgen_lib.catalogue.outbox import announce_left
from histgen_lib.runtime.loops import Loop, LoopContext
from histgen_lib.storage import ObjectStore
from histgen_lib.telemetry import get_logger

LOOK_S, LEFT_S = 30.0, 20.0
"""How often it looks, and how old a note is that nobody is about to remove. Together less than the minute in
which a withdrawn case has to be gone."""

_log = get_logger()


class Reminding(Loop):
    """Looks every `look_s` seconds for notes that were left; one LIST if there are none."""

    name = "outbox"

    def __init__(
        self,
        context: LoopContext,
        store: ObjectStore,
        publisher: Publisher,
        *,
        look_s: float = LOOK_S,
        left_s: float = LEFT_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(context)
        self._store, self._publisher, self._look_s = store, publisher, look_s
        self._left_s, self._now = left_s, now

    def turn(self) -> None:
        """Look once, then wait."""
        self._pulse.drop()  # whatever it has not published by a stop, it finds after the next start
        if count := self.background(self._publish):
            _log.warning("Events that nobody had published were published.", count=count)
        self.pause(self._look_s)

    def _publish(self) -> int:
        return announce_left(self._store, self._publisher, before=self._now() - self._left_s)
