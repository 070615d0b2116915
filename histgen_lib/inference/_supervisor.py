"""Keeping the models of a Triton server answering: each is tested at intervals, and reloaded if it fails."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from histgen_lib.errors import HistgenError
from histgen_lib.inference._connection import CallFailedError, Connection
from histgen_lib.inference._triton import TritonServer
from histgen_lib.inference.shared_memory import clear_server
from histgen_lib.telemetry import metrics

log = logging.getLogger(__name__)

_BUSY_S = 300.0
"""A model that answers late and finishes nothing for so long is shown as down, though it may yet recover."""
_RESTS_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Shortest times between reloads of a model that does not recover."""


@dataclass
class _Health:
    """What is known of one model: reloads in a row, when the last was, and since when it has been silent.

    `well`: it answered the last time.
    """

    well: bool = False
    reloads: int = 0
    reloaded_at: float = float("-inf")
    silent_since: float | None = None
    executions: int = -1


class Supervisor:
    """Watches models of one Triton server, from a thread of its own.

    Triton calls a model "ready" whose process was killed, and never restarts that process. Every `interval_s`
    each model gets a small request. One that fails is unloaded and loaded, less and less often if that does
    not help. A model that takes longer than `answer_s` is busy; if it has finished nothing for `hung_s` (by
    default as long as a job may take), `on_hung` is called with its name (on the server's machine: to kill
    its process), and it is reloaded.

    `calm_s`: the interval while every model answers. `disturbed` is called every `interval_s`, and returns
    whether something calls for an immediate look (on the server's machine: a process ended).

    The metrics show whether each model is up: it answered, or is busy and finished something lately.

    Memory shared with the server by processes that have ended is released, too. A server that is unavailable
    is left alone: starting it is the business of its owner. Several supervisors do no harm.
    """

    def __init__(
        self,
        url: str,
        models: Iterable[str],
        *,
        secret: str | None = None,
        interval_s: float = 1.0,
        calm_s: float = 0.0,
        disturbed: Callable[[], bool] = lambda: False,
        answer_s: float = 5.0,
        hung_s: float = 1800.0,
        on_hung: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = Connection(url, secret)
        self._server = TritonServer(url, shared_memory="off", secret=secret)
        self._health = {model: _Health() for model in models}
        self._interval_s, self._answer_s, self._hung_s = interval_s, answer_s, hung_s
        self._calm_s, self._disturbed, self._looked_at = calm_s, disturbed, float("-inf")
        self._on_hung, self._clock = on_hung, clock
        for model in self._health:
            metrics.CANARY_UP.labels(model).set(0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="histgen-supervisor", daemon=True)

    @property
    def reloads(self) -> int:
        """Reloads of models that have not answered since."""
        return sum(health.reloads for health in self._health.values())

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; returns when no reload is in progress."""
        self._ended.set()
        self._thread.join()
        self._server.close()
        self._connection.close()

    def look(self) -> None:
        """Check each model once, and reload those that fail."""
        self._looked_at = self._clock()
        for model, health in self._health.items():
            self._check(model, health)
        if self._connection.is_local:
            try:
                clear_server(self._connection)
            except CallFailedError:
                log.debug("The model server is unavailable.")
        if self._calm():
            self._connection.rest()
            self._server.rest()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                if self._disturbed() or not self._calm():
                    self.look()
            except Exception:  # whatever it is, the next look may succeed
                log.exception("The models could not be checked.")

    def _calm(self) -> bool:
        """Return whether all were well at the last look, and that was not long ago."""
        well = all(health.well for health in self._health.values())
        return well and self._clock() - self._looked_at < self._calm_s

    def _check(self, model: str, health: _Health) -> None:
        try:
            health.well = False
            self._server.canary(model, self._answer_s)
        except HistgenError as error:
            if error.code == "inference-deadline":
                up = self._wait_for(model, health)
            else:
                up = False
                self._reload(model, health, error.code)
        else:
            up = True
            health.well, health.reloads, health.silent_since = True, 0, None
        metrics.CANARY_UP.labels(model).set(up)

    def _wait_for(self, model: str, health: _Health) -> bool:
        """Reload a model if it is hung, not busy: it has finished nothing for a long time.

        Return whether it may well be busy.
        """
        try:
            executions = self._connection.executions(model)
        except CallFailedError:
            return False
        now = self._clock()
        if health.silent_since is None or executions != health.executions:
            health.silent_since, health.executions = now, executions
        elif now - health.silent_since >= self._hung_s:
            health.silent_since = None
            self._on_hung(model)
            self._reload(model, health, "hung")
            return False
        return now - health.silent_since < _BUSY_S

    def _reload(self, model: str, health: _Health, why: str) -> None:
        rest_s = _RESTS_S[min(health.reloads, len(_RESTS_S) - 1)]
        if self._clock() - health.reloaded_at < rest_s:
            return
        try:
            known = self._connection.models()
        except CallFailedError:  # the server is unavailable
            return
        if model not in known:
            return
        try:
            log.warning("The model %s is reloaded: %s.", model, why)
            health.reloads += 1
            self._connection.unload(model)
            # Don't wait for that: a model whose process is gone is "unloading" forever, but can be loaded.
            self._connection.load(model)
        except CallFailedError as failed:
            log.warning("The model %s cannot be reloaded now: %s", model, failed.error.code)
        finally:
            health.reloaded_at = self._clock()
