"""Pools of processes that end at once on Ctrl-C and on errors, not when their tasks are done."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

_CLEANING_S = 1.0
"""Time that an ended task has to delete its temporary file."""


@contextmanager
def process_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of fresh (spawned) processes. When the block raises, running tasks are ended.

    The pool's processes leave Ctrl-C, which a terminal sends to all of them, to the one that owns the pool.
    """
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_leave_interrupts)
    try:
        yield pool
    except BaseException:
        _end(pool)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # an exception, so that tasks clean up


def _end(pool: ProcessPoolExecutor) -> None:
    running = list((pool._processes or {}).values())
    for process in running:
        process.terminate()
    until = time.monotonic() + _CLEANING_S
    for process in running:
        process.join(max(0.0, until - time.monotonic()))
        process.kill()
