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

from histgen_lib.errors import FatalError, HistgenError
from histgen_lib.stack.children import OWNER_ONLY, dying_with_parent, end

State = Literal["waiting", "starting", "running", "restarting", "failed", "stopped"]

LOOK_S = 0.2
LOG_BYTES = 8 << 20
STEADY_S = 60.0
"""A process that ran this long was well: what ends it then is counted from the start."""
DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0)
"""Waits before each new start in a row; after the last one the process is given up."""


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

    def start(self) -> None:
        """Start it; return when it is of use. Raises HistgenError."""
        ...

    def stop(self) -> None:
        """Stop it cleanly, within its grace; no error if it does not run."""
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

    def start(self) -> None:
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

    def fault(self) -> HistgenError | None:
        """Say why it must not be started again: its settings or the installation are wrong."""
        if self._process is None or self._process.poll() != FatalError.exit_code:
            return None
        code, message, hint = last_words(self.log_path)
        return FatalError(
            "service-refused",
            f"The {self.name} cannot run: {message or 'it does not say why.'}{f' [{code}]' if code else ''}",
            hint=hint or f"Its log is {self.log_path}.",
        )


class Keeper:
    """Keeps one process running, from a thread of its own: the process dies with that thread, so with us.

    `changed` is called from that thread with the keeper whenever its state has changed.
    """

    def __init__(
        self,
        name: str,
        process: Process,
        *,
        changed: Callable[[Keeper], None] = lambda _: None,
        delays_s: Sequence[float] = DELAYS_S,
    ) -> None:
        self.name, self.process = name, process
        self.state: State = "waiting"
        self.error: HistgenError | None = None
        self.restarts = 0
        self._changed, self._delays_s = changed, delays_s
        self._ended = threading.Event()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"keeper of {name}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def wait_running(self, timeout_s: float) -> bool:
        """Wait until it runs, or has failed; True if either came in time."""
        return self._up.wait(timeout_s)

    def ask_stop(self) -> None:
        """Have it stopped; returns at once."""
        self._ended.set()

    def join(self) -> None:
        """Return once it is stopped."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._keep()
        except HistgenError as error:
            self._fail(error)
        except OSError as error:
            self._fail(self._not_startable(error))
        except Exception as error:  # else it would end in silence, and nobody would miss it
            self._fail(self._unforeseen(error))
        finally:
            self.process.stop()
            if self.state != "failed":
                self._become("stopped")

    def _keep(self) -> None:
        failures = 0
        while not self._ended.is_set():
            began = time.monotonic()
            self._start(first=self.restarts == 0)
            self._watch()
            if self._ended.is_set():
                return
            if fault := self._fault():
                raise fault
            failures = 1 if time.monotonic() - began >= STEADY_S else failures + 1
            if failures > len(self._delays_s):
                raise self._hopeless()
            self.restarts += 1
            self._become("restarting")
            self._ended.wait(self._delays_s[failures - 1])

    def _start(self, *, first: bool) -> None:
        self._become("starting" if first else "restarting")
        try:
            self.process.start()
        except HistgenError:
            if first:
                raise
            return  # a server that cannot come back at once may do so later
        self._become("running")
        self._up.set()

    def _watch(self) -> None:
        while self.process.pid is not None and not self._ended.wait(LOOK_S):
            bound_log(self.process.log_path)

    def _fault(self) -> HistgenError | None:
        return self.process.fault() if isinstance(self.process, ServiceProcess) else None

    def _fail(self, error: HistgenError) -> None:
        self.error = error
        self._become("failed")
        self._up.set()

    def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._changed(self)

    def _not_startable(self, error: OSError) -> FatalError:
        return FatalError(
            "service-refused",
            f"The {self.name} cannot be started: {error.strerror or type(error).__name__}.",
            hint="Check the room on the disk, and that this account may write to the stack's home folder.",
        )

    def _unforeseen(self, error: Exception) -> FatalError:
        return FatalError(
            "service-failing",
            f"The {self.name} cannot be kept running: nobody had foreseen this ({type(error).__name__}).",
            hint="Please report it.",
        )

    def _hopeless(self) -> FatalError:
        _, message, hint = last_words(self.process.log_path)
        return FatalError(
            "service-failing",
            f"The {self.name} ended {len(self._delays_s) + 1} times in a row. {message}".strip(),
            hint=hint or f"Its log is {self.process.log_path}.",
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
