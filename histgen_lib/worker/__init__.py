"""The process runtime: take an event, run its job in a child process, publish, and only then commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histgen_lib.lazy import lazily

if TYPE_CHECKING:
    from histgen_lib.catalogue.dead_letter import DeadLetter, dead_letters, letter_key, read_dead_letter
    from histgen_lib.runtime.backoff import Backoff
    from histgen_lib.runtime.http import announced, serving
    from histgen_lib.runtime.stopping import Stop
    from histgen_lib.worker.handler import Handler, Outcome
    from histgen_lib.worker.run import run_worker
    from histgen_lib.worker.spec import WorkerSpec

__all__ = [
    "Backoff",
    "DeadLetter",
    "Handler",
    "Outcome",
    "Stop",
    "WorkerSpec",
    "announced",
    "dead_letters",
    "letter_key",
    "read_dead_letter",
    "run_worker",
    "serving",
]

__getattr__ = lazily(
    __name__,
    {
        "backoff": "Backoff",
        "dead_letter": "DeadLetter dead_letters letter_key read_dead_letter",
        "handler": "Handler Outcome",
        "http": "announced serving",
        "run": "run_worker",
        "spec": "WorkerSpec",
        "stopping": "Stop",
    },
)
