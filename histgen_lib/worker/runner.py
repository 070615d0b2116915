"""Runs jobs in a child process, and turns everything that can happen to it into an answer or an error."""

from __future__ import annotations

import math
import os
import pickle
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from histgen_lib.errors import FatalError
from histgen_lib.events import Event
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.pulse import STEP_S, Pulse
from histgen_lib.runtime.silence import Silence, is_ending, is_stopped
from histgen_lib.telemetry import get_logger, log_settings, metrics
from histgen_lib.worker.child import (
    Answer,
    Check,
    Checked,
    ChildSpec,
    Failed,
    Find,
    Handle,
    Message,
    Models,
    Request,
    StageProgress,
    Started,
    child_main,
)
from histgen_lib.worker.failures import (
    CRASHED,
    LATE,
    MEMORY,
    JobFailedError,
    frozen,
    job_error,
    not_started,
    opened_late,
    over_memory,
    setup_error,
    start_too_large,
)
from histgen_lib.worker.handler import OPENED, Handler, Outcome, WorkerSpec
from histgen_lib.worker.memory import MemoryWatch, memory_of

CLOSE_S = 2.0
"""How long an idle child may take to leave by itself."""
CHECK_S, CHECK_LIMIT_S = 10.0, 30.0
"""How often an idle child is asked whether it is ready, and how long it may take to answer."""

_log = get_logger()


class ProcessDiedError(Exception):
    """The child is gone. `exit_code` as in multiprocessing: -9 for SIGKILL."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class JobProcess:
    """One child process at a time. "spawn" keeps the parent's threads and locks out of it."""

    def __init__(self, make_handler: Callable[[], Handler], worker: str) -> None:
        self._make, self._worker = make_handler, worker
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._lifeline: Connection | None = None
        self._silence = Silence(0)

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start a child; its first message is Started or Failed."""
        self.kill()
        context = get_context("spawn")
        pipe, theirs = context.Pipe()
        held, lifeline = context.Pipe(duplex=False)
        spec = ChildSpec(os.getpid(), self._make, self._worker, log_settings())
        process = context.Process(target=child_main, args=(theirs, held, spec))
        signals = (signal.SIGINT, signal.SIGTERM)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
            held.close()
        self._process, self._pipe, self._lifeline = process, pipe, lifeline
        self._silence = Silence(0)

    def is_frozen(self, limit_s: float) -> bool:
        """Return whether the child was found stopped (SIGSTOP) at every call for `limit_s`; 0: no limit."""
        self._silence.limit_s = limit_s
        return self._silence.lasts(alive=not is_stopped(self.pid))

    def send(self, request: Request) -> None:
        """Send a request. Raises ProcessDiedError."""
        try:
            self._open_pipe().send(request)
        except OSError:
            raise self._died() from None

    def receive(self, timeout_s: float) -> Message | None:
        """Wait for a message; None if none came. Raises ProcessDiedError after the last message.

        A child that was killed counts as dead at once: its ends of the pipes close a moment later.
        """
        pipe = self._open_pipe()
        if not wait([pipe, self._sentinel()], timeout_s) and not is_ending(self.pid):
            return None
        try:
            message: Message | None = pipe.recv() if pipe.poll() else None
        except (EOFError, OSError, pickle.UnpicklingError):
            raise self._died() from None
        if message is None:
            raise self._died()
        return message

    def kill(self) -> None:
        """End the child at once, if there is one, and reap it."""
        if self._process:
            self._process.kill()
            self._reap()

    def close(self) -> None:
        """Let an idle child leave by itself; kill it if it does not."""
        if self._process and self._pipe:
            self._pipe.close()
            self._process.join(CLOSE_S)
        self.kill()

    def _open_pipe(self) -> Connection:
        if self._pipe is None:
            raise ProcessDiedError(None)
        return self._pipe

    def _sentinel(self) -> int:
        assert self._process is not None
        return self._process.sentinel

    def _died(self) -> ProcessDiedError:
        """End what may be left of the child, and return how it ended."""
        process = self._process
        if process:
            process.join(CLOSE_S)  # a closed pipe comes a moment before the exit code
            self.kill()
        return ProcessDiedError(process.exitcode if process else None)

    def _reap(self) -> None:
        for end in (self._pipe, self._lifeline):
            if end:
                end.close()
        if self._process:
            self._process.join()
        self._process = self._pipe = self._lifeline = None


class _OverLimitError(Exception):
    """No answer came within a limit. `failure`: what that means for a job."""

    def __init__(self, failure: JobFailedError) -> None:
        super().__init__(failure.reason.code)
        self.failure = failure


class Runner:
    """Has jobs done by one child process, which is replaced when it dies, hangs or is abandoned."""

    def __init__(self, spec: WorkerSpec, process: JobProcess, board: Board, pulse: Pulse) -> None:
        self._spec, self._process, self._board, self._pulse = spec, process, board, pulse
        self._clock = board.clock
        self._started = self._checking = self._used = False
        self._failed_starts = 0
        self._models: Models = ()
        self._checked_at = float("-inf")
        metrics.JOB_MEMORY.labels(spec.name).set_function(lambda: memory_of(process.pid))

    def start(self) -> None:
        """Start a child without waiting for it."""
        self._started = self._checking = self._used = False
        self._board.lacks("process", "starting")
        self._process.start()

    def warm(self) -> None:
        """Return once a child has made its handler. Raises TransientError or FatalError if that fails."""
        if self._process.pid is None:
            self.start()
        if self._started:
            return
        try:
            message = self._message(self._spec.start_s)
        except (ProcessDiedError, _OverLimitError) as error:
            self._process.kill()
            if isinstance(error, _OverLimitError) and error.failure.reason is MEMORY:
                raise start_too_large() from None
            self._failed_starts += 1
            raise not_started(for_good=self._failed_starts >= self._spec.max_attempts) from None
        if isinstance(message, Failed):
            self._process.kill()
            raise setup_error(message)
        self._show_models(message)
        self._started, self._failed_starts = True, 0
        self._board.has("process")

    def find(self, event: Event) -> Outcome | None:
        """Return the outcome of a job whose objects are all there. Raises as `handle`."""
        return self._request(Find(event))

    def handle(self, event: Event, attempt: int) -> Outcome:
        """Have the job done. Raises JobFailedError, or what the job raised.

        A job that failed before is tried in a process of its own: what other jobs left behind there, such as
        memory that was not given back, is not its slide's fault.
        """
        if attempt > 1 and self._used:
            self._process.kill()
        outcome = self._request(Handle(event, attempt)) or Outcome()
        self._used = True
        return outcome

    def tend(self) -> None:
        """Between jobs: replace a child that died, and check now and then whether it is ready for a job."""
        self.warm()
        self._hear(0.0)
        waited_s = self._clock() - self._checked_at
        if self._checking and waited_s >= CHECK_LIMIT_S:
            _log.warning("An idle child process hung; another is started.")
            self._process.kill()
        elif not self._checking and waited_s >= CHECK_S:
            self._check()

    def abandon(self) -> None:
        """End the job in hand."""
        self._process.kill()

    def _request(self, request: Find | Handle) -> Outcome | None:
        self.warm()
        self._hear(CHECK_LIMIT_S)
        try:
            self._process.send(request)
            message = self._message(self._spec.deadline_s, self._spec.opening_s)
        except ProcessDiedError as death:
            _log.error("The job's process died.", exit_code=death.exit_code)
            raise JobFailedError(CRASHED) from None
        except _OverLimitError as over:
            self._process.kill()
            _log.error("The job exceeded a limit and was ended.", code=over.failure.reason.code)
            raise over.failure from None
        if isinstance(message, Failed):
            if isinstance(message.error, FatalError):
                _log.error("The handler is made anew.", exc_info=message.error)
                self._process.kill()
            raise job_error(message)
        assert isinstance(message, Answer)
        self._show_models(message)
        return message.outcome

    def _message(self, limit_s: float, opening_s: float = math.inf) -> Message:
        """Wait for the next message other than progress.

        Raises TransientError("job-frozen") after ending a child that was stopped.
        """
        with MemoryWatch(self._process.pid, self._spec.memory_bytes) as watch:
            try:
                return self._message_within(limit_s, opening_s)
            except ProcessDiedError:
                if watch.over:
                    raise _OverLimitError(over_memory()) from None
                raise

    def _message_within(self, limit_s: float, opening_s: float) -> Message:
        """Wait for `limit_s`, or for `opening_s` if the job's slide is not open by then.

        A message that came at the last moment counts.
        """
        began_at = self._clock()
        while True:
            past_s = self._clock() - began_at
            late = past_s >= min(limit_s, opening_s)
            message = self._process.receive(0.0 if late else STEP_S)
            if isinstance(message, StageProgress):
                self._board.progress(message.stage, message.done, message.total)
                opening_s = math.inf if message.stage == OPENED else opening_s
            elif message:
                return message
            elif late:
                raise _OverLimitError(JobFailedError(LATE) if past_s >= limit_s else opened_late())
            if self._process.is_frozen(self._spec.frozen_s):
                self._process.kill()
                raise frozen()
            self._pulse.beat()

    def _show_models(self, message: Message) -> None:
        if isinstance(message, Started | Answer | Checked) and message.models != self._models:
            self._models = message.models
            metrics.show_models(self._spec.name, message.models)

    def _check(self) -> None:
        self._checking, self._checked_at = True, self._clock()
        with suppress(ProcessDiedError):  # the next request finds out
            self._process.send(Check())

    def _hear(self, limit_s: float) -> None:
        """Take the answer to a check that is under way; replace a child that died or does not answer."""
        try:
            message = self._message(limit_s) if self._checking and limit_s else self._process.receive(0.0)
        except (ProcessDiedError, _OverLimitError) as failure:
            _log.warning(
                "An idle child process died or hung; another is started.", error=type(failure).__name__
            )
            self.start()
            self.warm()
        else:
            if isinstance(message, Checked):
                self._note(message)

    def _note(self, checked: Checked) -> None:
        self._checking = False
        self._show_models(checked)
        if checked.missing:
            self._board.lacks("job", ", ".join(checked.missing))
        else:
            self._board.has("job")
