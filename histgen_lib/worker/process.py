"""The parent's hold on the child process: start it, talk to it, notice its death, end it."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from histgen_lib.runtime.silence import Silence, is_ending, is_stopped
from histgen_lib.telemetry import log_settings
from histgen_lib.worker.child import ChildSpec, child_main
from histgen_lib.worker.handler import Handler
from histgen_lib.worker.messages import Message, Request

CLOSE_S = 2.0
"""How long a child that has nothing to do may take to leave by itself."""


class ProcessDiedError(Exception):
    """The child is gone; `exit_code` as multiprocessing tells it: -9 for SIGKILL."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class JobProcess:
    """One child process at a time. "spawn" leaves the parent's threads and locks out of it."""

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
        """Start a child; what comes first from it is Started or Failed."""
        self.kill()
        context = get_context("spawn")
        pipe, theirs = context.Pipe()
        held, lifeline = context.Pipe(duplex=False)
        job = ChildSpec(os.getpid(), self._make, self._worker, log_settings())
        process = context.Process(target=child_main, args=(theirs, held, job))
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
        """Look whether the child was stopped where it stands, at every look for `limit_s`."""
        self._silence.limit_s = limit_s
        return self._silence.lasts(alive=not is_stopped(self.pid))

    def send(self, request: Request) -> None:
        """Hand over a request. Raises ProcessDiedError."""
        try:
            self._open_pipe().send(request)
        except OSError:
            raise self._died() from None

    def receive(self, timeout_s: float) -> Message | None:
        """Wait for a message; None if none came. Raises ProcessDiedError once all are taken.

        A child that was killed counts as dead at once: its ends of the pipes are closed a moment later only.
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
        """End what may be left of it, and tell how it ended."""
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
