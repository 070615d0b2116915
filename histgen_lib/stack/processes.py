"""One process of the stack at a time: started with its log in a file, watched, started again, stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from histgen_lib.errors import FatalError, HistgenError, TransientError
from histgen_lib.stack.children import OWNER_ONLY, Bell, dying_with_parent, end
from histgen_lib.stack.endings import how_ended, no_room
from histgen_lib.worker import Backoff

State = Literal["waiting", "starting", "running", "restarting", "failed", "stopped"]

LOOK_S = 10.0
"""How often a log is cut. The end of a process is told by the kernel."""
LOG_BYTES = 8 << 20
STEADY_S = 60.0
"""A process that ran this long is well: what ends it then is counted from the start."""
TROUBLE = 3
"""After so many ends in a row a process is said to be in trouble."""
BACKOFF = Backoff(first_s=0.5, most_s=15.0)
"""Waits before each new start in a row; it is never given up while its cause may pass."""
_MAY_PASS = frozenset({"http-port", "job-process"})
"""Reasons that a service ends with for a person to mend, and that on one's own machine may pass: another
program has the port for a while, something kills the processes of jobs or there is no memory for them."""


class Process(Protocol):
    """What a keeper keeps running; used from the keeper's thread, and must not outlive that."""

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        ...

    @property
    def log_path(self) -> Path:
        """Where it writes what it has to say."""
        ...

    def start(self, ended: threading.Event | None = None) -> None:
        """Start it; return when it is of use, or when `ended` is set.

        Raises OSError, TransientError where it may come up later, and another HistgenError where a person
        has to mend something first.
        """
        ...

    def stop(self) -> None:
        """Stop it cleanly, within its grace; no error if it does not run."""
        ...

    def fault(self) -> HistgenError:
        """Say why it ended, by the same classes."""
        ...


class ServiceProcess:
    """One of our services. It has a session of its own: a Ctrl-C in the terminal is for the parent alone."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path, *, grace_s: float
    ) -> None:
        self.name, self.log_path = name, log
        self._command, self._environment, self._grace_s = command, environment, grace_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The service's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self, ended: threading.Event | None = None) -> None:
        """Start it; it tells by itself when it is ready."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                dying_with_parent(self._command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment},
                start_new_session=True,
                umask=OWNER_ONLY,
            )

    def stop(self) -> None:
        """Let it drain; kill it if that takes longer than its grace."""
        if self._process is not None:
            end(self._process, grace_s=self._grace_s)

    def fault(self) -> HistgenError:
        """Say why it ended: FatalError if its settings or the installation are wrong."""
        exit_code = self._process.poll() if self._process else None
        code, message, hint = last_words(self.log_path) if exit_code and exit_code > 0 else ("", "", "")
        hint = hint or f"Its log is {self.log_path}."
        if exit_code == FatalError.exit_code and code not in _MAY_PASS:
            told = f"{message or 'it does not say why.'}{f' [{code}]' if code else ''}"
            return FatalError("service-refused", f"The {self.name} cannot run: {told}", hint=hint)
        return TransientError(
            "service-ended", f"The {self.name} {how_ended(exit_code)}. {message}".strip(), hint=hint
        )


class Keeper:
    """Keeps one process running, from a thread of its own: the process dies with that thread, so with us.

    Whatever ends it, it is started again, ever more rarely, for as long as the cause may pass. `trouble`: why
    it ends again and again; "" while it is well. `error`: what a person has to mend; then it is given up.
    `changed` is called from the keeper's thread whenever state or trouble have changed.
    """

    def __init__(
        self,
        name: str,
        process: Process,
        *,
        changed: Callable[[Keeper], None] = lambda _: None,
        backoff: Backoff = BACKOFF,
        steady_s: float = STEADY_S,
    ) -> None:
        self.name, self.process = name, process
        self.state: State = "waiting"
        self.error: HistgenError | None = None
        self.trouble = ""
        self.restarts = 0
        self._changed, self._backoff, self._steady_s = changed, backoff, steady_s
        self._delays, self._failures = backoff.delays(), 0
        self._ended, self._bell = threading.Event(), Bell()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"keeper of {name}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def wait_running(self, timeout_s: float) -> bool:
        """Wait until it runs, or has been given up; True if either came in time."""
        return self._up.wait(timeout_s)

    def ask_stop(self) -> None:
        """Have it stopped; returns at once."""
        self._ended.set()
        self._bell.ring()

    def join(self) -> None:
        """Return once it is stopped."""
        self.ask_stop()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                self._come_back(self._run_once())
        except HistgenError as error:
            self._give_up(error)
        except Exception as error:  # else it would end in silence, and nobody would miss it
            self._give_up(self._unforeseen(error))
        finally:
            self.process.stop()
            if self.state != "failed":
                self._become("stopped")

    def _run_once(self) -> HistgenError:
        """Start it and watch it until it ends; return why. Raises what a person has to mend."""
        self._become("restarting" if self.restarts else "starting")
        try:
            self.process.start(self._ended)
        except TransientError as error:
            return error
        except OSError as error:
            return self._not_startable(error)
        self._become("running")
        self._up.set()
        self._watch()
        return self.process.fault()

    def _watch(self) -> None:
        began = time.monotonic()
        while (pid := self.process.pid) is not None and not self._ended.is_set():
            age_s = time.monotonic() - began
            if self._failures and age_s >= self._steady_s:
                self._delays, self._failures = self._backoff.delays(), 0
                self._say("")
            self._bell.wait(pid, min(LOOK_S, self._steady_s / 2))
            bound_log(self.process.log_path)

    def _come_back(self, why: HistgenError) -> None:
        """Pause before it is started again; say what the trouble is when it begins."""
        if self._ended.is_set():
            return
        if not isinstance(why, TransientError):
            raise why
        self._failures += 1
        self.restarts += 1
        if self._failures >= TROUBLE:
            self._say(f"{why.message} [{why.code}] {why.hint}".strip())
        self._become("restarting")
        self._ended.wait(next(self._delays))

    def _give_up(self, error: HistgenError) -> None:
        self.error = error
        self._become("failed")
        self._up.set()

    def _say(self, trouble: str) -> None:
        begins_or_ends = bool(trouble) != bool(self.trouble)
        self.trouble = trouble
        if begins_or_ends:
            self._changed(self)

    def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._changed(self)

    def _not_startable(self, error: OSError) -> HistgenError:
        kind = TransientError if no_room(error) else FatalError
        return kind(
            "service-ended" if kind is TransientError else "service-refused",
            f"The {self.name} cannot be started: {error.strerror or type(error).__name__}.",
            hint="Check the room on the disk, and that this account may write to the stack's home folder.",
        )

    def _unforeseen(self, error: Exception) -> FatalError:
        return FatalError(
            "service-failing",
            f"The {self.name} cannot be kept running: nobody had foreseen this ({type(error).__name__}).",
            hint="Please report it.",
        )


def bound_log(path: Path, most_bytes: int = LOG_BYTES) -> None:
    """Keep a log that another process appends to below about `most_bytes`, and one older piece beside it."""
    try:
        if path.stat().st_size > most_bytes:
            shutil.copyfile(path, path.with_name(f"{path.name}.1"))
            os.truncate(path, 0)
    except OSError:
        return  # a log that cannot be cut is no reason to stop anything


def last_words(log: Path) -> tuple[str, str, str]:
    """Return code, message and hint of the last line of a service's log that says what went wrong."""
    for line in reversed(_tail(log)):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and "code" in said:
            return tuple(str(said.get(key, "")) for key in ("code", "message", "hint"))  # type: ignore[return-value]
    return "", next((line for line in reversed(_tail(log)) if line.strip()), ""), ""


def _tail(log: Path, most_bytes: int = 64 << 10) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most_bytes))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
