"""Keeping a process of the stack running: starting it, watching it, restarting it, stopping it."""

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

CHECK_S = 10.0
"""How often to cut the log and to ask for a sign of life; the kernel reports the end itself."""
_CHECKS = 6
"""The least number of such checks within the time after which a process counts as frozen."""
_MOST_PATIENCE = 16
"""A process that freezes repeatedly gets up to so many times that time: the machine may just be slow."""
_STARTUP = 3
"""A process that has not answered yet gets so many times that time again."""
REPEAT_S = 60.0
"""How often, at most, to report that a process keeps failing."""
LOG_BYTES = 8 << 20
STEADY_S = 60.0
"""A process that ran this long is well: its failures are counted afresh."""
TROUBLE = 3
"""A process is reported as failing after so many failures in a row."""
BACKOFF = Backoff(first_s=0.5, most_s=15.0)
"""Pauses before restarts in a row; a process is never given up while the cause may be temporary."""


class Process(Protocol):
    """What a supervisor keeps running; used from the supervisor's thread, which it must not outlive."""

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        ...

    @property
    def log_path(self) -> Path:
        """Where it writes its log."""
        ...

    def start(self, ended: threading.Event | None = None) -> None:
        """Start it; return when it is usable, or when `ended` is set.

        Raises OSError, TransientError if it may start later, and another HistgenError if a person has to
        resolve something first.
        """
        ...

    def stop(self) -> None:
        """Stop it cleanly within its grace period; no error if it is not running."""
        ...

    def fault(self) -> HistgenError:
        """Return why it ended, as an error of the same classes."""
        ...

    def answers(self) -> bool:
        """Return whether it shows a sign of life, within a few seconds."""
        ...

    def end_frozen(self, limit_s: float) -> Sequence[str]:
        """End parts of it that were stopped for `limit_s`, which others replace; return their names."""
        return ()


class ServiceProcess(Process):
    """One of our services, in a session of its own, so that Ctrl-C in the terminal reaches only the parent.

    `run_dir`: where it announces its address; without it, it cannot be asked and counts as alive.
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
        """Where it writes its log."""
        return self._log

    @property
    def pid(self) -> int | None:
        """The service's process id while it runs."""
        return self._process.pid if self._process and not has_ended(self._process) else None

    def start(self, ended: threading.Event | None = None) -> None:
        """Start it; it announces itself when it is ready."""
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
        """Let it drain; kill it if that takes longer than its grace period."""
        if self._process is not None and self.pid is not None:
            self._process.terminate()
            Waker().wait(self._process.pid, self._grace_s)
            if self.pid is not None:
                end_group(self._process.pid)
                self._process.wait()

    def fault(self) -> HistgenError:
        """Return why it ended: a FatalError if its settings are wrong."""
        exit_code = self._process.poll() if self._process else None
        log = written_since(self.log_path, self._log_start)
        code, message, hint = last_words(log) if exit_code and exit_code > 0 else ("", "", "")
        hint = hint or f"Its log is {self.log_path}."
        if exit_code == FatalError.exit_code and code in PERMANENT_CODES:
            return FatalError("service-refused", f"The {self.name} cannot run: {message} [{code}]", hint=hint)
        return TransientError(
            "service-ended", f"The {self.name} {describe_exit(exit_code)}. {message}".strip(), hint=hint
        )

    def answers(self) -> bool:
        """Return whether it is alive, by its /healthz."""
        pid = self.pid
        if self._run_dir is None or pid is None:
            return True
        try:
            announced = self._run_dir / f"{self.name.partition('-')[0]}-{pid}.json"
            return is_alive(str(json.loads(announced.read_bytes())["url"]))
        except (OSError, ValueError, KeyError, TypeError):  # it has not announced itself yet
            return False


class ProcessSupervisor:
    """Keeps one process running, from a thread of its own; the process dies with that thread, so with us.

    Whatever ends it, it is restarted, with ever longer pauses, as long as the cause may be temporary. One
    that shows no sign of life for `frozen_s` (0: forever) is killed and replaced. `trouble`: why it keeps
    failing, since `troubled_at`; "" while it is well; to be reported once for each `reported_at`. `last`: why
    it ended last. `error`: what a person has to resolve, if it never was well; it is not restarted then.

    `changed` is called from the supervisor's thread when state or trouble change, and once a minute while
    there is trouble; `on_end` at every end, with what ended and whether it was frozen. `clock`: monotonic
    seconds.
    """

    def __init__(
        self,
        name: str,
        process: Process,
        *,
        changed: Callable[[ProcessSupervisor], None] = lambda _: None,
        on_end: Callable[[str, bool], None] = lambda what, frozen: None,
        backoff: Backoff = BACKOFF,
        steady_s: float = STEADY_S,
        frozen_s: float = LIMIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.process = name, process
        self.state: State = "waiting"
        self.error: HistgenError | None = None
        self.trouble = self.last = ""
        self.troubled_at = self.reported_at = 0.0
        self.restarts = 0
        self._changed, self._on_end, self._clock = changed, on_end, clock
        self._backoff, self._steady_s, self._frozen_s = backoff, steady_s, frozen_s
        self._was_well, self._freezes = False, 0
        self._delays, self._failures = backoff.delays(), 0
        self._ended, self._waker = threading.Event(), Waker()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"supervisor of {name}", daemon=True)

    def start(self) -> None:
        """Start keeping it; return at once."""
        self._thread.start()

    def wait_running(self, timeout_s: float) -> bool:
        """Wait until it runs or has been given up; return whether either happened in time."""
        return self._up.wait(timeout_s)

    def ask_stop(self) -> None:
        """Ask for it to be stopped; return at once."""
        self._ended.set()
        self._waker.wake()

    def join(self) -> None:
        """Stop it, and return once it is stopped."""
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
        """Start it and watch it until it ends; return why."""
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
        except Exception as error:  # else this thread would end unnoticed
            self.process.stop()
            return self._unforeseen(error)

    def _watch(self) -> HistgenError | None:
        """Return when it has ended, with the reason if we ended it because it was frozen."""
        began, silence = self._clock(), Silence(self._limit_s(_STARTUP), self._clock)
        while (pid := self.process.pid) is not None and not self._ended.is_set():
            if self._failures and self._clock() - began >= self._steady_s:
                self._delays, self._failures = self._backoff.delays(), 0
                self._report("")
            self._waker.wait(pid, self._interval_s())
            bound_log(self.process.log_path)
            if self._frozen_s and silence.lasts(alive=self._shows_life(silence)):
                return self._end_frozen(silence.limit_s)
        return None

    def _interval_s(self) -> float:
        return min(CHECK_S, self._steady_s / 2, self._frozen_s / _CHECKS if self._frozen_s else CHECK_S)

    def _limit_s(self, times: int) -> float:
        return self._frozen_s * times * min(1 << self._freezes, _MOST_PATIENCE)

    def _shows_life(self, silence: Silence) -> bool:
        for name in self.process.end_frozen(self._frozen_s):
            self._call(partial(self._on_end, name, True))
        if self.process.pid is None:  # it has ended; the caller asks why
            return True
        if not self.process.answers():
            return False
        self._was_well, self._freezes = True, 0
        silence.limit_s = self._limit_s(1)
        return True

    def _end_frozen(self, limit_s: float) -> HistgenError | None:
        """Kill a frozen process, which cannot be stopped."""
        if self._ended.is_set() or (pid := self.process.pid) is None:
            return None
        self._freezes += 1
        os.kill(pid, signal.SIGKILL)
        while self.process.pid is not None and not self._ended.is_set():
            self._waker.wait(pid, 1.0)
        return TransientError(
            "service-frozen",
            f"The {self.name} showed no sign of life for {limit_s:.0f} s, and was killed.",
            hint=f"Its log is {self.process.log_path}.",
        )

    def _come_back(self, why: HistgenError) -> None:
        """Report the failure, and pause before the restart. Raises what a person has to resolve."""
        if self._ended.is_set():
            return
        if isinstance(why, FatalError) and not self._may_pass(why):
            raise why
        self._failures += 1
        self.restarts += 1
        self.last = why.message
        frozen = why.code == "service-frozen"
        self._call(partial(self._on_end, self.name, frozen))
        self.reported_at = float("-inf") if frozen else self.reported_at  # report every freeze
        if self._failures >= TROUBLE:
            lack = disk_problem(self.process.log_path.parent)
            self._report(" ".join(filter(None, (lack, why.message, f"[{why.code}]", why.hint))))
        self._become("restarting")
        self._ended.wait(next(self._delays))

    def _may_pass(self, error: FatalError) -> bool:
        return self._was_well or error.code not in PERMANENT_CODES or lacked_resources(error)

    def _give_up(self, error: HistgenError) -> None:
        self.error = error
        self._become("failed")
        self._up.set()

    def _report(self, trouble: str) -> None:
        now, begins_or_ends = self._clock(), bool(trouble) != bool(self.trouble)
        self.trouble = trouble
        if begins_or_ends:
            self.troubled_at = now
        if begins_or_ends or now - self.reported_at >= REPEAT_S:
            self.reported_at = now
            self._call(partial(self._changed, self))

    def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._call(partial(self._changed, self))

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:  # no callback may end this thread
            _log.exception("A callback of %s failed.", self.name)

    def _not_startable(self, error: OSError) -> HistgenError:
        kind = TransientError if lacked_resources(error) else FatalError
        return kind(
            "service-ended" if kind is TransientError else "service-refused",
            f"The {self.name} cannot be started: {error.strerror or type(error).__name__}.",
            hint="Check the free space on the disk, and that this account may write to the stack's home.",
        )

    def _unforeseen(self, error: Exception) -> TransientError:
        return TransientError(
            "service-failing",
            f"The {self.name} cannot be kept running ({type(error).__name__}, which is a bug).",
            hint="Please report it.",
        )


def bound_log(path: Path, most_bytes: int = LOG_BYTES) -> None:
    """Keep a log that another process appends to below about `most_bytes`, with one older part beside it."""
    try:
        if path.stat().st_size > most_bytes:
            shutil.copyfile(path, path.with_name(f"{path.name}.1"))
            os.truncate(path, 0)
    except OSError:
        return  # no reason to stop anything


def last_words(log: str) -> tuple[str, str, str]:
    """Return code, message and hint of the last error in a service's log; "" for what is missing."""
    lines = log.splitlines()
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "code" in entry:
            return str(entry["code"]), str(entry.get("message", "")), str(entry.get("hint", ""))
    return "", next((_sentence(line) for line in reversed(lines) if line.strip()), ""), ""


def _sentence(line: str) -> str:
    """Return the message of a line of a log, without the JSON around it."""
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return line
