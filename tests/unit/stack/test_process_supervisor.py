"""Processes are restarted as long as that may help, and never outlive their supervisor."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import until

from histgen_lib.errors import FatalError, HistgenError, TransientError
from histgen_lib.runtime.pulse import Backoff
from histgen_lib.stack.children import end_strays
from histgen_lib.stack.processes import Process, ProcessSupervisor, ServiceProcess, bound_log, last_words

AT_ONCE = Backoff(first_s=0.01, most_s=0.01)
SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


def service(tmp_path, code: str, grace_s: float = 5.0) -> ServiceProcess:
    return ServiceProcess("tiler", [sys.executable, "-c", code], {}, tmp_path / "tiler.log", grace_s=grace_s)


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


@pytest.fixture
def keep():
    """Keep processes during a test."""
    supervisors: list[ProcessSupervisor] = []

    def start(process: ServiceProcess, **options) -> ProcessSupervisor:
        supervisors.append(ProcessSupervisor("tiler", process, **options))
        supervisors[-1].start()
        assert supervisors[-1].wait_running(10)
        return supervisors[-1]

    yield start
    for supervisor in supervisors:
        supervisor.join()


def test_a_killed_process_is_restarted(keep, tmp_path):
    seen: list[str] = []
    process = service(tmp_path, "import time; time.sleep(600)")
    supervisor = keep(process, backoff=AT_ONCE, changed=lambda k: seen.append(k.state))
    first = process.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: process.pid not in (None, first), 60, "another process")

    assert supervisor.restarts == 1
    until(lambda: seen == ["starting", "running", "restarting", "running"], 60, "every state reported")


def state_recorder(seen: list[str]):
    """Note each change of a supervisor's trouble."""

    def note(supervisor: ProcessSupervisor) -> None:
        if bool(supervisor.trouble) != bool(seen and seen[-1]):
            seen.append(supervisor.trouble)

    return note


def test_a_process_that_is_killed_repeatedly_is_never_given_up(keep, tmp_path):
    seen: list[str] = []
    process = service(tmp_path, "import time; time.sleep(600)")
    supervisor = keep(process, backoff=AT_ONCE, changed=state_recorder(seen))
    for number in range(1, 31):
        os.kill(until(lambda: process.pid, 60, "a process"), signal.SIGKILL)
        until(lambda so_far=number: supervisor.restarts == so_far, 60, "it to be started again")

    assert supervisor.error is None
    assert len(seen) == 1
    assert seen[0].startswith("The tiler was ended by SIGKILL. [service-ended]")


def test_a_failing_process_is_reported_once_and_so_is_its_recovery(keep, tmp_path):
    words = json.dumps(
        {"event": "x", "code": "bus-unavailable", "message": "No broker.", "hint": "Start it."}
    )
    seen: list[str] = []
    there, log = tmp_path / "broker", tmp_path / "tiler.log"
    script = f"test -e {there} || {{ echo '{words}'; exit 3; }}; exec sleep 600"
    process = ServiceProcess("tiler", ["sh", "-c", script], {}, log, grace_s=5)
    supervisor = keep(process, backoff=AT_ONCE, steady_s=1.5, changed=state_recorder(seen))
    until(lambda: supervisor.trouble and supervisor.restarts > 5, 60, "many new starts")
    there.touch()
    until(lambda: not supervisor.trouble, 60, "it to be well again")

    assert seen == ["The tiler ended with exit code 3. No broker. [service-ended] Start it.", ""]
    assert supervisor.error is None


class Fickle(Process):
    """A process whose starts raise the given errors in turn; the last start keeps running."""

    pid, log_path = None, Path("absent.log")

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)

    def start(self, ended=None) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.pid = os.getpid()

    def stop(self) -> None:
        self.pid = None

    def fault(self) -> HistgenError:
        return TransientError("triton-ended", "It was killed.")

    def answers(self) -> bool:
        return True


@pytest.mark.parametrize(
    "passing",
    [
        TransientError("kafka-ended", "Apache Kafka was ended by SIGKILL."),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_a_first_start_with_a_temporary_failure_is_retried(keep, passing):
    supervisor = keep(Fickle(passing, passing, passing, passing), backoff=AT_ONCE)

    assert (supervisor.state, supervisor.restarts, supervisor.error) == ("running", 4, None)
    assert "Kafka" in supervisor.trouble or passing.args[1] in supervisor.trouble


def test_a_permanent_error_also_ends_a_later_start(keep):
    missing = FatalError("kafka-missing", "There is no Java.")
    supervisor = keep(Fickle(TransientError("kafka-ended", "Killed."), missing), backoff=AT_ONCE)

    assert (supervisor.state, supervisor.error) == ("failed", missing)


def test_a_pause_before_a_restart_does_not_delay_a_stop(keep, tmp_path):
    supervisor = keep(service(tmp_path, "raise SystemExit(1)"), backoff=Backoff(first_s=3600, most_s=3600))
    until(lambda: supervisor.state == "restarting", 60, "the pause")
    supervisor.join()

    assert supervisor.state == "stopped"


@pytest.mark.parametrize("code", ["http-port", "job-process"])
def test_a_refusal_with_a_temporary_cause_is_retried(keep, tmp_path, code):
    words = json.dumps({"code": code, "message": "Not now.", "hint": "Wait."})
    supervisor = keep(service(tmp_path, f"print({words!r}); raise SystemExit(78)"), backoff=AT_ONCE)
    until(lambda: supervisor.restarts > 9, 60, "many new starts")

    assert supervisor.error is None


def test_a_process_that_refuses_to_run_is_not_restarted(keep, tmp_path):
    words = json.dumps({"code": "settings-invalid", "message": "HISTGEN_BUS is missing.", "hint": "Set it."})
    supervisor = keep(service(tmp_path, f"print({words!r}); raise SystemExit(78)"), backoff=AT_ONCE)
    until(lambda: supervisor.error, 60, "the refusal")

    assert (supervisor.restarts, supervisor.error.code) == (0, "service-refused")
    assert supervisor.error.message == "The tiler cannot run: HISTGEN_BUS is missing. [settings-invalid]"
    assert supervisor.state == "failed"


def test_a_program_that_cannot_be_started_is_an_error(keep, tmp_path):
    (tmp_path / "file").touch()
    supervisor = keep(ServiceProcess("tiler", SLEEPER, {}, tmp_path / "file" / "x.log", grace_s=1))

    assert supervisor.error.code == "service-refused"


def test_stopping_lets_a_process_drain(keep, tmp_path):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('drained', flush=True), sys.exit(0)))\n"
        "print('up', flush=True); time.sleep(600)"
    )
    process = service(tmp_path, code)
    supervisor = keep(process)
    until(lambda: "up" in process.log_path.read_text(), 60, "the process")
    supervisor.join()

    assert process.log_path.read_text() == "up\ndrained\n"
    assert (supervisor.state, process.pid) == ("stopped", None)


def test_a_process_that_does_not_stop_is_killed_after_its_grace_period(keep, tmp_path):
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    process = service(tmp_path, code, grace_s=0.1)
    supervisor = keep(process)
    until(lambda: "up" in process.log_path.read_text(), 60, "the process")
    supervisor.join()

    assert process.pid is None


ORPHAN = (
    "import os, signal, subprocess, sys, time\n"
    "child = subprocess.Popen(['sleep', '600']); os.kill(child.pid, signal.SIGSTOP)\n"
    "print(child.pid, flush=True); time.sleep(600)"
)
"""A service whose child was stopped before it could ask the kernel to die with its parent."""


def test_a_stopped_child_of_a_killed_service_is_ended_with_it(keep, tmp_path):
    process = service(tmp_path, ORPHAN)
    supervisor = keep(process, backoff=AT_ONCE)
    child = int(until(process.log_path.read_text, 60, "the child"))
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: supervisor.restarts == 1, 60, "it to be started again")

    until(lambda: gone(child), 60, "the child's end")


def test_a_child_left_by_a_killed_service_and_supervisor_is_found_by_its_stack(tmp_path):
    mark = f"HISTGEN_RUN_DIR={tmp_path}"
    leader = subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "HISTGEN_RUN_DIR": str(tmp_path)},
    )
    with leader:
        child = int(leader.stdout.readline())
        end_strays(mark)
        assert not gone(child)  # its service runs
        leader.kill()
    end_strays("HISTGEN_RUN_DIR=/of/another/stack")
    assert not gone(child)
    end_strays(mark)

    until(lambda: gone(child), 60, "its end")


def test_processes_die_with_a_killed_supervisor(tmp_path):
    log = tmp_path / "log"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from histgen_lib.stack.processes import ProcessSupervisor, ServiceProcess\n"
        f"p = ServiceProcess('t', {SLEEPER!r}, {{}}, Path({str(log)!r}), grace_s=1)\n"
        "k = ProcessSupervisor('t', p); k.start(); k.wait_running(10); print(p.pid, flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        until(lambda: "up" in log.read_text(), 60, "the child")
        parent.kill()

    until(lambda: gone(child), 60, "the child to die")


def test_a_ctrl_c_in_the_terminal_does_not_reach_the_services(keep, tmp_path):
    """They would end before what they have in hand is handed back."""
    process = service(tmp_path, "import time; time.sleep(600)")
    keep(process)

    assert os.getpgid(process.pid) != os.getpgid(os.getpid())


def test_a_growing_log_is_cut_and_its_last_part_kept(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("x" * 100)
    bound_log(log, most_bytes=100)
    assert log.stat().st_size == 100
    with log.open("ab", buffering=0) as writer:
        writer.write(b"y")
        bound_log(log, most_bytes=100)
        writer.write(b"z")

    assert log.read_text() == "z"
    assert (tmp_path / "a.log.1").stat().st_size == 101


def test_a_log_without_errors_is_quoted_by_its_last_line():
    assert last_words("Traceback\nModuleNotFoundError: no x\n\n") == ("", "ModuleNotFoundError: no x", "")
    assert last_words('{"event": "The worker stops.", "where": "x.py"}\n') == ("", "The worker stops.", "")
    assert last_words("") == ("", "", "")


class Frozen(Process):
    """A process that runs and shows no life, so often; then it does."""

    log_path = Path("absent.log")

    def __init__(self, times: int) -> None:
        self.times = times
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process and self.process.poll() is None else None

    def start(self, ended=None) -> None:
        self.process = subprocess.Popen(["sleep", "600"])
        if self.times:
            self.process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def answers(self) -> bool:
        return not (self.times and self.pid)

    def fault(self) -> HistgenError:
        return TransientError("service-ended", "It ended.")


def test_a_frozen_process_is_replaced_reported_and_counted(keep):
    process, noted, lasts = Frozen(1), [], []

    def note(part: str, frozen: bool) -> None:
        noted.append((part, frozen))
        process.times = 0

    supervisor = keep(
        process, backoff=AT_ONCE, frozen_s=0.1, on_end=note, changed=lambda k: lasts.append((k.state, k.last))
    )
    until(lambda: supervisor.restarts == 1 and supervisor.state == "running", 60, "another one")
    until(lambda: supervisor._was_well, 60, "its sign of life")

    assert noted == [("tiler", True)]
    assert ("restarting", "The tiler showed no sign of life for 0 s, and was killed.") in lasts
    assert supervisor.restarts == 1


def test_without_a_limit_a_process_may_be_silent_forever(keep):
    supervisor = keep(Frozen(1), backoff=AT_ONCE, frozen_s=0, steady_s=0.02)
    until(lambda: supervisor.state == "running", 60, "it to run")
    supervisor.join()

    assert supervisor.restarts == 0


def test_a_refusal_of_a_process_that_was_well_before_is_retried(keep):
    """Somebody may be installing something or copying a model; the settings were right before."""
    process = Fickle()
    supervisor = keep(process, backoff=AT_ONCE, frozen_s=0.1)
    until(lambda: supervisor._was_well, 60, "a sign of life")
    process.failures = [FatalError("kafka-missing", "There is no Java.")] * 5
    process.pid = None
    supervisor._waker.wake()
    until(lambda: not process.failures and supervisor.state == "running", 60, "it to be started again")

    assert (supervisor.error, supervisor.restarts) == (None, 6)
    assert "There is no Java. [kafka-missing]" in supervisor.trouble


def test_an_unforeseen_error_is_retried_too(keep):
    supervisor = keep(Fickle(ZeroDivisionError(), ZeroDivisionError(), ZeroDivisionError()), backoff=AT_ONCE)
    until(lambda: supervisor.state == "running", 60, "it to be started again")

    assert supervisor.error is None
    assert "ZeroDivisionError" in supervisor.trouble


def test_lasting_trouble_is_reported_again_but_not_at_every_end(keep, tmp_path, monkeypatch):
    monkeypatch.setattr("histgen_lib.stack.processes.REPEAT_S", 0.5)
    reports: set[float] = set()
    supervisor = keep(
        service(tmp_path, "raise SystemExit(1)"),
        backoff=AT_ONCE,
        changed=lambda k: reports.add(k.reported_at) if k.trouble else None,
    )
    until(lambda: len(reports) > 2, 60, "another report")

    assert len(reports) < supervisor.restarts
