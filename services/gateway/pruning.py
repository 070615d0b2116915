"""The loop that prunes once a day what the settings say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histgen_lib.bus import BusSettings
from histgen_lib.catalogue.pruning import DAY_S, prune, tally
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.stopping import Stop
from histgen_lib.storage import ObjectStore
from histgen_lib.telemetry import get_logger
from services.gateway.loops import Loop

BY = "retention"
"""Who does it, for the audit log."""
FIRST_S = 300.0
"""After a start others have more urgent things to do."""

_log = get_logger()


class Pruning(Loop):
    """Prunes, with pauses of a day. `days`: by kind, see `histgen_lib.catalogue.pruning.read_retention`."""

    name = "prune"

    def __init__(
        self,
        store: ObjectStore,
        bus: BusSettings,
        days: Mapping[str, float],
        board: Board,
        stop: Stop,
        *,
        first_s: float = FIRST_S,
        **patience: Any,
    ) -> None:
        super().__init__(board, stop, **patience)
        self._store, self._bus, self._days, self._wait_s = store, bus, days, first_s

    def turn(self) -> None:
        """Wait until it is time, then prune; what is stopped half-way goes on the next time."""
        self.pause(self._wait_s)
        removed = self.aside(lambda: tally(prune(self._store, self._bus, self._days, by=BY)))
        for kind, (count, size_bytes) in removed.items():
            _log.info("Pruned.", stage=kind, count=count, size_bytes=size_bytes)
        self._wait_s = DAY_S
