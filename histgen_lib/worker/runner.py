"""Has the child process do a job, and turns whatever can become of it into an answer or an error."""

from __future__ import annotations

import math
import time
from contextlib import suppress

from histgen_lib.errors import FatalError
from histgen_lib.events import Event
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.pulse import STEP_S, Pulse
from histgen_lib.telemetry import get_logger, metrics
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
from histgen_lib.worker.handler import Outcome
from histgen_lib.worker.memory import MemoryWatch, memory_of
from histgen_lib.worker.messages import Answer, Check, Checked, Failed, Find, Handle, Message, Told
from histgen_lib.worker.process import JobProcess, ProcessDiedError
from histgen_lib.worker.spec import OPENED, WorkerSpec

CHECK_S, CHECK_LIMIT_S = 10.0, 30.0
"""How often an idle child is asked whether it is ready, and how long it may take to say."""

_log = get_logger()


class _OverLimitError(Exception):
    """No answer came within what it may take. `failure`: what that is for a job."""

    def __init__(self, failure: JobFailedError) -> None:
        super().__init__(failure.reason.code)
        self.failure = failure


class Runner:
    """One child process, made anew when it dies, hangs or is given up."""

    def __init__(self, spec: WorkerSpec, process: JobProcess, board: Board, pulse: Pulse) -> None:
        self._spec, self._process, self._board, self._pulse = spec, process, board, pulse
        self._started = self._checking = self._used = False
        self._failed_starts = 0
        self._checked_at = 0.0
        metrics.JOB_MEMORY.labels(spec.name).set_function(lambda: memory_of(process.pid))

    def start(self) -> None:
        """Start a child without waiting for it."""
        self._started = self._checking = self._used = False
        self._board.lacks("process", "starting")
        self._process.start()

    def warm(self) -> None:
        """Return once a child has made its handler. TransientError or FatalError if that does not work."""
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
        self._started, self._failed_starts = True, 0
        self._board.has("process")

    def find(self, event: Event) -> Outcome | None:
        """Ask for the outcome of a job whose objects are there. Raises as `handle`."""
        return self._ask(Find(event))

    def handle(self, event: Event, attempt: int) -> Outcome:
        """Have the job done. Raises JobFailedError, or what the job raised.

        One that failed before is tried in a process of its own: what other jobs left behind there, memory
        that was not given back, for example, is no fault of its slide's.
        """
        if attempt > 1 and self._used:
            self._process.kill()
        outcome = self._ask(Handle(event, attempt)) or Outcome()
        self._used = True
        return outcome

    def tend(self) -> None:
        """Between jobs: replace a child that died, and ask now and then whether its job could be done."""
        self.warm()
        self._hear(0.0)
        waited_s = time.monotonic() - self._checked_at
        if self._checking and waited_s >= CHECK_LIMIT_S:
            _log.warning("An idle child process hung; another is started.")
            self._process.kill()
        elif not self._checking and waited_s >= CHECK_S:
            self._check()

    def abandon(self) -> None:
        """End the job in hand."""
        self._process.kill()

    def _ask(self, request: Find | Handle) -> Outcome | None:
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
            _log.error("The job is over a limit and was ended.", code=over.failure.reason.code)
            raise over.failure from None
        if isinstance(message, Failed):
            if isinstance(message.error, FatalError):
                _log.error("The job is set up anew.", exc_info=message.error)
                self._process.kill()
            raise job_error(message)
        assert isinstance(message, Answer)
        return message.outcome

    def _message(self, limit_s: float, opening_s: float = math.inf) -> Message:
        """Wait for the next message that is no progress.

        Raises TransientError("job-frozen") once the process that should send it was ended as it stood still.
        """
        with MemoryWatch(self._process.pid, self._spec.memory_bytes) as watch:
            try:
                return self._within(limit_s, opening_s)
            except ProcessDiedError:
                if watch.over:
                    raise _OverLimitError(over_memory()) from None
                raise

    def _within(self, limit_s: float, opening_s: float) -> Message:
        """Wait so long, or until `opening_s` if the job's slide is not open by then.

        What came at the last moment counts.
        """
        began_at = time.monotonic()
        while True:
            past_s = time.monotonic() - began_at
            late = past_s >= min(limit_s, opening_s)
            message = self._process.receive(0.0 if late else STEP_S)
            if isinstance(message, Told):
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

    def _check(self) -> None:
        self._checking, self._checked_at = True, time.monotonic()
        with suppress(ProcessDiedError):  # the next one to use it finds out
            self._process.send(Check())

    def _hear(self, limit_s: float) -> None:
        """Take the answer to a check that is under way; notice a child that died, or does not answer."""
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
        if checked.missing:
            self._board.lacks("job", ", ".join(checked.missing))
        else:
            self._board.has("job")
