"""Keeps the models of a Triton server answering: asks each at intervals, and reloads one that fails."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from histgen_lib.errors import HistgenError
from histgen_lib.inference._connection import CallFailedError, Connection
from histgen_lib.inference._regions import clear_server
from histgen_lib.inference._triton import TritonServer

log = logging.getLogger(__name__)

_RESTS_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Least time between reloads of a model that does not get well."""


@dataclass
class _Patient:
    """What is known of one model: reloads in a row, when the last was, and since when it answers nothing.

    `well`: it answered the last time.
    """

    well: bool = False
    reloads: int = 0
    reloaded_at: float = float("-inf")
    silent_since: float | None = None
    executions: int = -1


class Supervisor:
    """Watches models of one Triton server, from a thread of its own.

    Triton calls a model "ready" whose process was killed, and never starts that process again. Each
    `interval_s` every model gets a small request. One that fails is unloaded and loaded, ever more rarely if
    that does not help. A model that takes longer than `answer_s` is busy; if it has finished nothing for
    `hung_s` (as long as a job may take by default), `on_hung` is called with its name (on the server's
    machine: to kill its process), and it is reloaded.

    `calm_s`: how long an interval becomes while every model answers; `disturbed` is asked each `interval_s`
    whether something happened that calls for a look at once (on the server's machine: a process ended).

    Memory that ended processes had shared with the server is given back, too. A server that is away is left
    alone: starting it is for whoever keeps its process. Several supervisors do no harm.
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
        self._patients = {model: _Patient() for model in models}
        self._interval_s, self._answer_s, self._hung_s = interval_s, answer_s, hung_s
        self._calm_s, self._disturbed, self._looked_at = calm_s, disturbed, float("-inf")
        self._on_hung, self._clock = on_hung, clock
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="histgen-supervisor", daemon=True)

    @property
    def reloads(self) -> int:
        """Reloads of models that have not answered since."""
        return sum(patient.reloads for patient in self._patients.values())

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; returns when nothing is being reloaded any more."""
        self._ended.set()
        self._thread.join()
        self._server.close()
        self._connection.close()

    def look(self) -> None:
        """Look after each model once."""
        self._looked_at = self._clock()
        for model, patient in self._patients.items():
            self._look_after(model, patient)
        if self._connection.is_local:
            try:
                clear_server(self._connection)
            except CallFailedError:
                log.debug("The model server is away.")
        if self._calm():
            self._connection.rest()
            self._server.rest()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                if self._disturbed() or not self._calm():
                    self.look()
            except Exception:  # whatever it is, the next look may fare better
                log.exception("The models could not be looked after.")

    def _calm(self) -> bool:
        """Whether all were well at the last look, and that was not long ago."""
        well = all(patient.well for patient in self._patients.values())
        return well and self._clock() - self._looked_at < self._calm_s

    def _look_after(self, model: str, patient: _Patient) -> None:
        try:
            patient.well = False
            self._server.canary(model, self._answer_s)
        except HistgenError as error:
            if error.code == "inference-deadline":
                self._wait_for(model, patient)
            else:
                self._reload(model, patient, error.code)
        else:
            patient.well, patient.reloads, patient.silent_since = True, 0, None

    def _wait_for(self, model: str, patient: _Patient) -> None:
        """Tell a busy model from a hung one: it has not finished anything for long."""
        try:
            executions = self._connection.executions(model)
        except CallFailedError:
            return
        now = self._clock()
        if patient.silent_since is None or executions != patient.executions:
            patient.silent_since, patient.executions = now, executions
        elif now - patient.silent_since >= self._hung_s:
            patient.silent_since = None
            self._on_hung(model)
            self._reload(model, patient, "hung")

    def _reload(self, model: str, patient: _Patient, why: str) -> None:
        rest_s = _RESTS_S[min(patient.reloads, len(_RESTS_S) - 1)]
        if self._clock() - patient.reloaded_at < rest_s:
            return
        try:
            known = self._connection.models()
        except CallFailedError:  # the server is away
            return
        if model not in known:
            return
        try:
            log.warning("The model %s is reloaded: %s.", model, why)
            patient.reloads += 1
            self._connection.unload(model)
            # Not waited for: a model whose process is gone is "unloading" for ever, but can be loaded.
            self._connection.load(model)
        except CallFailedError as failed:
            log.warning("The model %s cannot be reloaded now: %s", model, failed.error.code)
        finally:
            patient.reloaded_at = self._clock()
