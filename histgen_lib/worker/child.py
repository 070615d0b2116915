"""The child process that runs the jobs, and the messages between it and its worker.

The child makes its handler once, then answers one request after another until the pipe closes. Messages are
pickled: both ends are the same program. The parent sends Find, Handle or Check, and waits for the Answer or
Failed (Checked for Check) before it sends the next Find or Handle.

The child ignores SIGINT and SIGTERM, which a terminal or a supervisor sends to the whole process group: the
parent decides. It ends when its parent does, however that ended: nobody would wait for its job any more.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

import structlog

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.events import Event
from histgen_lib.pipeline.job import ModelInUse
from histgen_lib.resources import disk_full, lacked_resources, was_full
from histgen_lib.telemetry import LogSettings, bound, configure_logging, get_logger
from histgen_lib.worker.handler import Handler, Outcome

PROGRESS_S = 0.5
"""The least time between two progress messages of one stage."""

_PR_SET_PDEATHSIG = 1
_log = get_logger()


@dataclass(frozen=True)
class Find:
    """A request to call `handler.find`."""

    event: Event


@dataclass(frozen=True)
class Handle:
    """A request to call `handler.handle`."""

    event: Event
    attempt: int


@dataclass(frozen=True)
class Check:
    """A request to call `handler.ready`."""


Models = tuple[ModelInUse, ...]


@dataclass(frozen=True)
class Started:
    """The handler is made. `models`: those that it uses, here and below."""

    models: Models = ()


@dataclass(frozen=True)
class StageProgress:
    """How far the job has come; see `histgen_lib.pipeline.job`."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Answer:
    """The outcome of a job; None from a `find` that found nothing."""

    outcome: Outcome | None
    models: Models = ()


@dataclass(frozen=True)
class Checked:
    """What `handler.ready` misses."""

    missing: Sequence[str]
    models: Models = ()


@dataclass(frozen=True)
class Failed:
    """The error that a job raised, or else the name of an unexpected exception's type."""

    error: HistgenError | None
    unexpected: str = ""


Request = Find | Handle | Check
Message = Started | StageProgress | Answer | Checked | Failed


@dataclass(frozen=True)
class ChildSpec:
    """What a child is started with. `parent`: the process id of its worker."""

    parent: int
    make_handler: Callable[[], Handler]
    worker: str
    logging: LogSettings | None


def child_main(pipe: Connection, lifeline: Connection, spec: ChildSpec) -> None:
    """Run the child process. `lifeline` is the end of a pipe whose other end only the parent holds."""
    _ignore_signals()
    _die_with(spec.parent, lifeline)
    faulthandler.enable()
    if spec.logging:
        configure_logging(spec.logging.service, spec.logging.level)
    with bound(worker=spec.worker), suppress(EOFError, OSError):  # of the pipe: the parent has left
        handler = _make(spec.make_handler, pipe)
        while handler is not None:
            request: Request = pipe.recv()
            pipe.send(_answer(handler, request, pipe))


def _make(make_handler: Callable[[], Handler], pipe: Connection) -> Handler | None:
    try:
        handler = make_handler()
    except (Exception, SystemExit) as error:
        pipe.send(_failed(error))
        return None
    pipe.send(Started(_models(handler)))
    return handler


def _answer(handler: Handler, request: Request, pipe: Connection) -> Message:
    if isinstance(request, Check):
        return Checked(_missing(handler), _models(handler))
    event = request.event
    ids = {"slide_id": event.key, "event_id": event.name, "trace_id": event.trace_id}
    try:
        if isinstance(request, Find):
            with bound(**ids, stage="find"):
                return Answer(_plain(handler.find(event)), _models(handler))
        with bound(**ids, stage="open", attempt=request.attempt):
            return Answer(_plain(handler.handle(event, _ProgressSender(pipe))), _models(handler))
    except (Exception, SystemExit) as error:
        return _failed(error)


def _plain(outcome: Outcome | None) -> Outcome | None:
    """Reduce an outcome to values that any process can unpickle. Raises TypeError for other values."""
    if outcome is None:
        return None
    if not all(isinstance(event, Event) for event in outcome.events):
        raise TypeError("events")
    measures: Mapping[str, float] = {str(name): float(value) for name, value in outcome.measures.items()}
    return Outcome(tuple(outcome.events), dict(measures))


def _missing(handler: Handler) -> tuple[str, ...]:
    try:
        return tuple(str(name) for name in handler.ready())
    except HistgenError as error:
        return (error.code,)
    except Exception as error:
        _log.warning("The readiness check failed.", exc_info=error)
        return (type(error).__name__,)


def _models(handler: Handler) -> Models:
    """Return what the metrics are to say of its models; nothing that is wrong there may stop a job."""
    try:
        return tuple(ModelInUse(*map(str, model)) for model in handler.models())
    except Exception as error:
        _log.warning("The models in use are not known.", exc_info=error)
        return ()


def _failed(error: BaseException) -> Failed:
    """Reduce an error to one of the three classes of the tree, which any process can unpickle."""
    for kind in (TransientError, InvalidInputError, FatalError):
        if isinstance(error, kind):
            sent = TransientError if kind is FatalError and lacked_resources(error) else kind
            return Failed(sent(error.code, error.message, hint=error.hint))
    if was_full(error):  # whatever was being written: no slide is given up for a full disk
        return Failed(disk_full())
    _log.error("Unexpected exception.", exc_info=error)
    kind_of_error = MemoryError if isinstance(error, MemoryError) else type(error)  # NumPy has its own
    return Failed(None, kind_of_error.__name__)


class _ProgressSender:
    """A job's Progress: sends each new stage at once, and how far it has come twice a second."""

    def __init__(self, pipe: Connection, clock: Callable[[], float] = time.monotonic) -> None:
        self._pipe, self._clock = pipe, clock
        self._stage, self._sent_at = "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = self._clock()
        if stage == self._stage and now - self._sent_at < PROGRESS_S:
            return
        if stage != self._stage:
            structlog.contextvars.bind_contextvars(stage=stage)
        self._stage, self._sent_at = stage, now
        self._pipe.send(StageProgress(stage, done, total))


def _ignore_signals() -> None:
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)  # the parent blocked them while it started us


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
