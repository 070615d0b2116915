"""Models run by a Triton Inference Server: over gRPC, with shared memory if it is on this machine."""

from __future__ import annotations

import hashlib
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.inference._connection import CallFailedError, Connection
from histgen_lib.inference._exchange import Exchange, TritonModel, read_model
from histgen_lib.inference.shared_memory import RegionPool
from histgen_lib.models.serving import ModelMetadata, Tensors, fitted, smallest, unknown_model

T = TypeVar("T")
SharedMemory = Literal["auto", "on", "off"]

_PAUSES_S = (0.05, 0.15, 0.3, 0.5)
"""Waits before a call is retried at once; after that the caller has to wait."""
_FRESH_S = 2.0
"""How long a model that answered counts as ready."""
_CANARY_S = 5.0
_LONGEST_S = 1e9
"""gRPC accepts no infinite deadline."""
_BUSY_S = 300.0
"""How long a model that answers late, but not wrongly, counts as busy."""
_SUSPECTS_KEPT = 64


class TritonServer:
    """An `InferenceServer` on a Triton server; for several threads.

    `url`: "triton://host:port" of its gRPC endpoint, or "triton:///folder/socket" of one on this machine.
    `shared_memory`: "auto" uses it for servers at a socket or at a loopback address. `secret`: for a server
    that restricts its protocols. `deadline_s`: how long a call may take, including the wait in the server's
    queue. `version`: the digest of the model folder that the server has to serve; None for any. `patience`:
    how often a model's process may die during the same request before that request is blamed.

    In addition to what `InferenceServer` states, calls raise TransientError: "inference-unavailable" (away,
    full, a model that is being loaded or whose process died), "inference-deadline"; FatalError:
    "inference-url", "inference-other-model", "inference-empty-output", "inference-not-triton",
    "inference-secret"; InvalidInputError: "inference-refused", "inference-failed", "inference-crashes".
    """

    def __init__(
        self,
        url: str,
        *,
        shared_memory: SharedMemory = "auto",
        secret: str | None = None,
        deadline_s: float = 120.0,
        version: str | None = None,
        patience: int = 5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = Connection(url, secret)
        enabled = shared_memory == "on" or (shared_memory == "auto" and self._connection.is_local)
        self._exchange = Exchange(self._connection, RegionPool(self._connection, enabled=enabled))
        self._deadline_s = min(deadline_s, _LONGEST_S)
        self._version, self._clock = version, clock
        self._suspects = _Suspects(patience)
        self._served: dict[str, TritonModel] = {}
        self._well: dict[str, float] = {}
        # The server would keep the regions mapped for as long as it lives.
        self._finalizer = weakref.finalize(self, _close, self._exchange, self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the shared memory and close the connection."""
        self._finalizer()

    def infer(self, model: str, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Run a model once; see `InferenceServer`."""
        end_at = self._clock() + self._deadline_s
        suspected = self._suspects.any(model)
        if suspected:
            self.canary(model)  # if the model dies now, it was this request
        served = self._again(model, end_at, lambda: self._model(model))
        parts = served.split(fitted(tensors, served.metadata))
        answers = [self._again(model, end_at, partial(self._ask, model, part, end_at)) for part in parts]
        self._well[model] = self._clock()
        if suspected:
            for part in parts:
                self._suspects.answered(model, part)
        if len(answers) == 1:
            return answers[0]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def warm(self, model: str) -> None:
        """Connect, and check that the right model answers."""
        self.canary(model)

    def ready(self, model: str) -> bool:
        """Return whether the model answers: for Triton, one whose process was killed is still "ready".

        A caller that asks is idle: the connection is closed until it is used again.
        """
        if self._clock() - self._well.get(model, -_FRESH_S) < _FRESH_S:
            return True
        try:
            self.canary(model)
        except TransientError as error:
            busy = error.code == "inference-deadline"
            return busy and self._clock() - self._well.get(model, -_BUSY_S) < _BUSY_S
        except HistgenError:
            return False
        finally:
            self.rest()
        return True

    def rest(self) -> None:
        """Close the connection if no call is in progress; the next call opens it again."""
        self._connection.rest()

    def canary(self, model: str, deadline_s: float = _CANARY_S) -> None:
        """Have the model answer a very small request. Raises what `infer` raises."""
        try:
            served = self._model(model)
            self._exchange.ask(served, smallest(served.metadata), deadline_s)
        except CallFailedError as failed:
            raise self._raised(model, failed) from failed
        self._well[model] = self._clock()

    def metadata(self, model: str) -> ModelMetadata:
        """Describe a model as the server has it now."""
        self._served.pop(model, None)
        return self._again(model, self._clock() + self._deadline_s, lambda: self._model(model)).metadata

    def engine(self, model: str) -> str:
        """See `InferenceServer`: for example "triton:tensorrt", or "triton:python:tensorrt"."""
        served = self._served.get(model)
        return ":".join(("triton", *(served.runs_on if served else ())))

    def _model(self, model: str) -> TritonModel:
        served = self._served.get(model)
        if served is None:
            served = read_model(self._connection.config(model))
            self._check_version(served)
            self._served[model] = served
        return served

    def _check_version(self, served: TritonModel) -> None:
        if self._version is not None and served.metadata.version != self._version:
            raise FatalError(
                "inference-other-model",
                f"The model server serves another {served.metadata.name} than the one in the model folder.",
                hint="Export the model folder to the server's repository (histgen export) and load it there.",
            )

    def _ask(self, model: str, part: Tensors, end_at: float) -> dict[str, npt.NDArray[Any]]:
        try:
            return self._exchange.ask(self._model(model), part, end_at - self._clock())
        except CallFailedError as failed:
            if failed.died:
                failed.error = self._suspects.died(model, part, failed.error)
            raise

    def _again(self, model: str, end_at: float, call: Callable[[], T]) -> T:
        """Call, and retry shortly afterwards if that may help."""
        for pause_s in _PAUSES_S:
            try:
                return call()
            except CallFailedError as failed:
                error = self._raised(model, failed)
                if not failed.again or self._clock() + pause_s >= end_at:
                    raise error from failed
                time.sleep(pause_s)
        try:
            return call()
        except CallFailedError as failed:
            raise self._raised(model, failed) from failed

    def _raised(self, model: str, failed: CallFailedError) -> HistgenError:
        """Return the error to raise; forget what is known of a model that may be away or replaced."""
        self._served.pop(model, None)
        if failed.died or failed.error.code == "inference-unavailable":
            self._well.pop(model, None)
        return self._gone(model, failed) if failed.model_gone else failed.error

    def _gone(self, model: str, failed: CallFailedError) -> HistgenError:
        """Return the error for a model that is being loaded, or that the server does not have."""
        try:
            known = self._connection.models()
        except CallFailedError as away:
            return away.error
        return failed.error if model in known else unknown_model(model, known)


def _close(exchange: Exchange, connection: Connection) -> None:
    exchange.close()
    connection.close()


class _Suspects:
    """Counts, for one client, the requests during which a model's process died.

    Once is bad luck; again and again, it is the request. A request that has been answered is innocent.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._deaths: dict[tuple[str, str], int] = {}

    def any(self, model: str) -> bool:
        """Return whether some request to the model is under suspicion."""
        with self._lock:
            return any(name == model for name, _ in self._deaths)

    def died(self, model: str, tensors: Tensors, error: HistgenError) -> HistgenError:
        """Count a death; return the error to raise: `error`, until it has happened too often."""
        key = (model, _digest(tensors))
        with self._lock:
            while len(self._deaths) >= _SUSPECTS_KEPT:
                self._deaths.pop(next(iter(self._deaths)))
            deaths = self._deaths[key] = self._deaths.pop(key, 0) + 1
        if deaths < self._patience:
            return error
        return InvalidInputError(
            "inference-crashes",
            f"The process of the model {model} has died {deaths} times while it worked on this request.",
            hint="Give it more memory; its log and the system's log say why it died.",
        )

    def answered(self, model: str, tensors: Tensors) -> None:
        """Acquit a request."""
        key = (model, _digest(tensors))
        with self._lock:
            self._deaths.pop(key, None)


def _digest(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        content = repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
        digest.update(f"{name} {value.dtype} {value.shape} {len(content)}\n".encode() + content)
    return digest.hexdigest()
