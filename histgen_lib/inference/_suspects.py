"""Requests during which a model's process died: once is bad luck, again and again it is the request."""

from __future__ import annotations

import hashlib
import threading

from histgen_lib.errors import HistgenError, InvalidInputError
from histgen_lib.inference import Tensors

_KEPT = 64


class Suspects:
    """Counts, for one client. A request is innocent as soon as it has been answered."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._deaths: dict[tuple[str, str], int] = {}

    def any(self, model: str) -> bool:
        """Tell whether some request to the model is under suspicion."""
        with self._lock:
            return any(name == model for name, _ in self._deaths)

    def died(self, model: str, tensors: Tensors, error: HistgenError) -> HistgenError:
        """Count a death, and say what to raise: `error`, until it has happened too often."""
        key = (model, _digest(tensors))
        with self._lock:
            while len(self._deaths) >= _KEPT:
                self._deaths.pop(next(iter(self._deaths)))
            deaths = self._deaths[key] = self._deaths.pop(key, 0) + 1
        if deaths < self._patience:
            return error
        return InvalidInputError(
            "inference-crashes",
            f"The process of the model {model} has died {deaths} times while it worked on this request.",
            hint="Too large for its memory? Its log and the system's say why it died.",
        )

    def answered(self, model: str, tensors: Tensors) -> None:
        """Acquit a request."""
        key = (model, _digest(tensors))
        with self._lock:
            self._deaths.pop(key, None)


def _digest(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        told = repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
        digest.update(f"{name} {value.dtype} {value.shape} {len(told)}\n".encode() + told)
    return digest.hexdigest()
