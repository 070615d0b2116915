"""Running jobs: take an event, do its job in a child process, publish what follows, and only then commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histgen_lib.lazy import lazily

if TYPE_CHECKING:
    from histgen_lib.worker.handler import Handler, Outcome, WorkerSpec
    from histgen_lib.worker.run import run_worker

__all__ = ["Handler", "Outcome", "WorkerSpec", "run_worker"]

__getattr__ = lazily(__name__, {"handler": "Handler Outcome WorkerSpec", "run": "run_worker"})
