"""One process of the stack at a time: started with its log in a file, watched, started again, stopped."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from histgen_lib.client.api import is_alive
from histgen_lib.errors import FatalError, HistgenError, TransientError
from histgen_lib.resources import disk_problem, lacked_resources
from histgen_lib.runtime.pulse import Backoff
from histgen_lib.runtime.silence import LIMIT_S, Silence
from histgen_lib.secret import OWNER_ONLY
from histgen_lib.stack.children import (
    PERMANENT_CODES,
    Waker,
    describe_exit,
    dying_with_parent,
    end_group,
    has_ended,
    written_since,
)

_log = logging.getLogger(__name__)

State = Literal["waiting", "starting", "running", "restarting", "failed", "stopped"]

LOOK_S = 10.0
"""How often a log is cut and a process asked for a sign of life. Its end is told by the kernel."""
_LOOKS = 6
"""How often it is asked, at least, within the time after which it is taken to be frozen."""
_MOST_PATIENCE = 16
"""A process that froze again and again gets up to so many times that time: the machine may be as slow."""
_RISE = 3
"""And one that has not answered yet gets so many times that."""
SAY_S = 60.0
"""How often, at most, it is said that a process keeps failing."""
LOG_BYTES = 8 << 20
STEADY_S = 60.0
"""A process that ran this long is well: what ends it then is counted from the start."""
TROUBLE = 3
"""After so many ends in a row a process is said to be in trouble."""
BACKOFF = Backoff(first_s=0.5, most_s=15.0)
"""Waits before each new start in a row; it is never given up while its cause may pass."""


class Process(Protocol):
    """What a supervisor keeps running; used from the supervisor's thread, and must not outlive that."""

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

    def answers(self) -> bool:
        """Ask it for a sign of life, for some seconds at most."""
        ...

    def end_frozen(self, limit_s: float) -> Sequence[str]:
        """End what belongs to it and was stopped for `limit_s`; name what it was. Others replace it."""
        return ()


class ServiceProcess(Process):
    """One of our services. It has a session of its own: a Ctrl-C in the terminal is for the parent alone.

    `run_dir`: where it says how it is reached; without it nobody can ask it, and it is taken to be alive.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        grace_s: float,
        run_dir: Path | None = None,
    ) -> None:
        self.name, self._log, self._run_dir = name, log, run_dir
        self._command, self._environment, self._grace_s = command, environment, grace_s
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def log_path(self) -> Path:
        """Where it writes what it has to say."""
        return self._log

    @property
    def pid(self) -> int | None:
        """The service's process id while it runs."""
        return self._process.pid if self._process and not has_ended(self._process) else None

    def start(self, ended: threading.Event | None = None) -> None:
        """Start it; it tells by itself when it is ready."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
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
        if self._process is not None and self.pid is not None:
            self._process.terminate()
            Waker().wait(self._process.pid, self._grace_s)
            if self.pid is not None:
                end_group(self._process.pid)
                self._process.wait()

    def fault(self) -> HistgenError:
        """Say why it ended: FatalError if its settings are wrong."""
        exit_code = self._process.poll() if self._process else None
        told = written_since(self.log_path, self._log_start)
        code, message, hint = last_words(told) if exit_code and exit_code > 0 else ("", "", "")
        hint = hint or f"Its log is {self.log_path}."
        if exit_code == FatalError.exit_code and code in PERMANENT_CODES:
            return FatalError("service-refused", f"The {self.name} cannot run: {message} [{code}]", hint=hint)
        return TransientError(
            "service-ended", f"The {self.name} {describe_exit(exit_code)}. {message}".strip(), hint=hint
        )

    def answers(self) -> bool:
        """Ask /healthz, which tells whether its loops turn."""
        pid = self.pid
        if self._run_dir is None or pid is None:
            return True
        try:
            announced = self._run_dir / f"{self.name.partition('-')[0]}-{pid}.json"
            return is_alive(str(json.loads(announced.read_bytes())["url"]))
        except (OSError, ValueError, KeyError, TypeError):  # it has not yet said where it listens
            return False


class ProcessSupervisor:
    """Keeps one process running, from a thread of its own: the process dies with that thread, so with us.

    Whatever ends it, it is started again, ever more rarely, for as long as the cause may pass. One that shows
    no life for `frozen_s` (0: for ever) is ended and replaced. `trouble`: why it ends again and again, since
    `troubled_at` (monotonic); "" while it is well. It is to be said once for each `said_at`. `last`: why it
    ended the last time. `error`: what a person has to mend, if it never was well; then it is given up.
    `changed` is called from the supervisor's thread whenever state or trouble have changed, and once a minute
    while there is trouble; `noted` for every end, with what ended and whether it was frozen.
    """

    def __init__(
        self,
        name: str,
        process: Process,
        *,
        changed: Callable[[ProcessSupervisor], None] = lambda _: None,
        noted: Callable[[str, bool], None] = lambda what, frozen: None,
        backoff: Backoff = BACKOFF,
        steady_s: float = STEADY_S,
        frozen_s: float = LIMIT_S,
    ) -> None:
        self.name, self.process = name, process
        self.state: State = "waiting"
        self.error: HistgenError | None = None
        self.trouble = self.last = ""
        self.troubled_at = self.said_at = 0.0
        self.restarts = 0
        self._changed, self._noted = changed, noted
        self._backoff, self._steady_s, self._frozen_s = backoff, steady_s, frozen_s
        self._was_well, self._freezes = False, 0
        self._delays, self._failures = backoff.delays(), 0
        self._ended, self._waker = threading.Event(), Waker()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"supervisor of {name}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def wait_running(self, timeout_s: float) -> bool:
        """Wait until it runs, or has been given up; True if either came in time."""
        return self._up.wait(timeout_s)

    def ask_stop(self) -> None:
        """Have it stopped; returns at once."""
        self._ended.set()
        self._waker.ring()

    def join(self) -> None:
        """Return once it is stopped."""
        self.ask_stop()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                self._come_back(self._run_once())
        except FatalError as error:
            self._give_up(error)
        finally:
            self.process.stop()
            if self.state != "failed":
                self._become("stopped")

    def _run_once(self) -> HistgenError:
        """Start it and watch it until it ends; return why. Raises what a person has to mend."""
        self._become("restarting" if self.restarts else "starting")
        try:
            self.process.start(self._ended)
            self._become("running")
            self._up.set()
            return self._watch() or self.process.fault()
        except HistgenError as error:
            return error
        except OSError as error:
            return self._not_startable(error)
        except Exception as error:  # else it would end in silence, and nobody would miss it
            self.process.stop()
            return self._unforeseen(error)

    def _watch(self) -> HistgenError | None:
        """Return when it has ended; say why, if that was for showing no life."""
        began, silence = time.monotonic(), Silence(self._limit_s(_RISE))
        while (pid := self.process.pid) is not None and not self._ended.is_set():
            if self._failures and time.monotonic() - began >= self._steady_s:
                self._delays, self._failures = self._backoff.delays(), 0
                self._say("")
            self._waker.wait(pid, self._look_s())
            bound_log(self.process.log_path)
            if self._frozen_s and silence.lasts(alive=self._shows_life(silence)):
                return self._end_frozen(silence.limit_s)
        return None

    def _look_s(self) -> float:
        return min(LOOK_S, self._steady_s / 2, self._frozen_s / _LOOKS if self._frozen_s else LOOK_S)

    def _limit_s(self, times: int) -> float:
        return self._frozen_s * times * min(1 << self._freezes, _MOST_PATIENCE)

    def _shows_life(self, silence: Silence) -> bool:
        for name in self.process.end_frozen(self._frozen_s):
            self._pass_on(partial(self._noted, name, True))
        if self.process.pid is None:  # it has ended, and why is asked next
            return True
        if not self.process.answers():
            return False
        self._was_well, self._freezes = True, 0
        silence.limit_s = self._limit_s(1)
        return True

    def _end_frozen(self, limit_s: float) -> HistgenError | None:
        """End a process that shows no life, as no stop would reach it."""
        if self._ended.is_set() or (pid := self.process.pid) is None:
            return None
        self._freezes += 1
        os.kill(pid, signal.SIGKILL)
        while self.process.pid is not None and not self._ended.is_set():
            self._waker.wait(pid, 1.0)
        return TransientError(
            "service-frozen",
            f"The {self.name} has shown no life for {limit_s:.0f} s, and was ended.",
            hint=f"Its log is {self.process.log_path}.",
        )

    def _come_back(self, why: HistgenError) -> None:
        """Pause before it is started again; say what the trouble is when it begins, and now and then."""
        if self._ended.is_set():
            return
        if isinstance(why, FatalError) and not self._passes(why):
            raise why
        self._failures += 1
        self.restarts += 1
        self.last = why.message
        frozen = why.code == "service-frozen"
        self._pass_on(partial(self._noted, self.name, frozen))
        self.said_at = float("-inf") if frozen else self.said_at  # each is told
        if self._failures >= TROUBLE:
            lack = disk_problem(self.process.log_path.parent)
            self._say(" ".join(filter(None, (lack, why.message, f"[{why.code}]", why.hint))))
        self._become("restarting")
        self._ended.wait(next(self._delays))

    def _passes(self, error: FatalError) -> bool:
        return self._was_well or error.code not in PERMANENT_CODES or lacked_resources(error)

    def _give_up(self, error: HistgenError) -> None:
        self.error = error
        self._become("failed")
        self._up.set()

    def _say(self, trouble: str) -> None:
        now, begins_or_ends = time.monotonic(), bool(trouble) != bool(self.trouble)
        self.trouble = trouble
        if begins_or_ends:
            self.troubled_at = now
        if begins_or_ends or now - self.said_at >= SAY_S:
            self.said_at = now
            self._pass_on(partial(self._changed, self))

    def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._pass_on(partial(self._changed, self))

    def _pass_on(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:  # whoever was told: the process is kept all the same
            _log.exception("News of %s could not be told.", self.name)

    def _not_startable(self, error: OSError) -> HistgenError:
        kind = TransientError if lacked_resources(error) else FatalError
        return kind(
            "service-ended" if kind is TransientError else "service-refused",
            f"The {self.name} cannot be started: {error.strerror or type(error).__name__}.",
            hint="Check the room on the disk, and that this account may write to the stack's home folder.",
        )

    def _unforeseen(self, error: Exception) -> TransientError:
        return TransientError(
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


def last_words(log: str) -> tuple[str, str, str]:
    """Return code, message and hint of the last line of a service's log that says what went wrong."""
    lines = log.splitlines()
    for line in reversed(lines):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and "code" in said:
            return tuple(str(said.get(key, "")) for key in ("code", "message", "hint"))  # type: ignore[return-value]
    return "", next((_sentence(line) for line in reversed(lines) if line.strip()), ""), ""


def _sentence(line: str) -> str:
    """Return what a line of a log says, without what stands around it in one of ours."""
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return line
