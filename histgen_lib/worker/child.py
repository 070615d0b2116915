"""The child process: makes the handler once, then answers its parent's requests until the pipe closes.

It ignores SIGINT and SIGTERM, which a terminal or a supervisor sends to the whole group: the parent decides.
And it dies with its parent, by whatever the parent died: a job that nobody waits for must not go on.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

import structlog

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.resources import disk_full, lacked_resources, was_full
from histgen_lib.telemetry import LogSettings, bound, configure_logging, get_logger
from histgen_lib.worker import messages
from histgen_lib.worker.handler import Handler
from histgen_lib.worker.messages import Answer, Check, Checked, Failed, Find, Request, Started, Told, plain

PROGRESS_S = 0.5
"""How far apart two progress messages of one stage are."""

_PR_SET_PDEATHSIG = 1
_log = get_logger()


@dataclass(frozen=True)
class ChildSpec:
    """What a child is started with; `parent`: the process id of who starts it."""

    parent: int
    make_handler: Callable[[], Handler]
    worker: str
    logging: LogSettings | None


def child_main(pipe: Connection, lifeline: Connection, job: ChildSpec) -> None:
    """Run the child process. `lifeline` is the end of a pipe whose other end only the parent holds."""
    _obey_parent_only()
    _die_with(job.parent, lifeline)
    faulthandler.enable()
    if job.logging:
        configure_logging(job.logging.service, job.logging.level)
    with bound(worker=job.worker), suppress(EOFError, OSError):  # of the pipe: the parent has left
        handler = _made(job.make_handler, pipe)
        while handler is not None:
            request: Request = pipe.recv()
            pipe.send(_answer(handler, request, pipe))


def _made(make_handler: Callable[[], Handler], pipe: Connection) -> Handler | None:
    try:
        handler = make_handler()
    except (Exception, SystemExit) as error:
        pipe.send(_failed(error))
        return None
    pipe.send(Started())
    return handler


def _answer(handler: Handler, request: Request, pipe: Connection) -> messages.Message:
    if isinstance(request, Check):
        return Checked(_missing(handler))
    event = request.event
    ids = {"slide_id": event.key, "event_id": event.name, "trace_id": event.trace_id}
    try:
        if isinstance(request, Find):
            with bound(**ids, stage="find"):
                return Answer(plain(handler.find(event)))
        with bound(**ids, stage="open", attempt=request.attempt):
            return Answer(plain(handler.handle(event, _Teller(pipe))))
    except (Exception, SystemExit) as error:
        return _failed(error)


def _missing(handler: Handler) -> tuple[str, ...]:
    try:
        return tuple(str(name) for name in handler.ready())
    except HistgenError as error:
        return (error.code,)
    except Exception as error:
        _log.warning("The readiness check failed.", exc_info=error)
        return (type(error).__name__,)


def _failed(error: BaseException) -> Failed:
    """Make what the parent gets: an error of the tree's own classes, which any process can unpickle."""
    for kind in (TransientError, InvalidInputError, FatalError):
        if isinstance(error, kind):
            passes = kind is FatalError and lacked_resources(error)
            told = TransientError if passes else kind
            return Failed(told(error.code, error.message, hint=error.hint))
    if was_full(error):  # whoever wrote there: a slide is not given up for that
        return Failed(disk_full())
    _log.error("Nobody had foreseen this exception.", exc_info=error)
    foreseen = MemoryError if isinstance(error, MemoryError) else type(error)  # NumPy has its own
    return Failed(None, foreseen.__name__)


class _Teller:
    """A job's Progress: passes on a new stage, and twice a second how far it is."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._stage, self._told_at = pipe, "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage == self._stage and now - self._told_at < PROGRESS_S:
            return
        if stage != self._stage:
            structlog.contextvars.bind_contextvars(stage=stage)
        self._stage, self._told_at = stage, now
        self._pipe.send(Told(stage, done, total))


def _obey_parent_only() -> None:
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)  # the parent had them blocked while it started us


def _die_with(parent: int, lifeline: Connection) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=_exit_at_end_of, args=(lifeline,), daemon=True).start()


def _exit_at_end_of(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
