"""Processes are kept running, within limits, and never outlive whoever keeps them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import until

from histgen_lib.stack.processes import Keeper, ServiceProcess, bound_log, last_words

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
    keepers: list[Keeper] = []

    def start(process: ServiceProcess, **options) -> Keeper:
        keepers.append(Keeper("tiler", process, **options))
        keepers[-1].start()
        assert keepers[-1].wait_running(10)
        return keepers[-1]

    yield start
    for keeper in keepers:
        keeper.join()


def test_a_killed_process_is_started_again(keep, tmp_path):
    seen: list[str] = []
    process = service(tmp_path, "import time; time.sleep(600)")
    keeper = keep(process, delays_s=(0.01,), changed=lambda k: seen.append(k.state))
    first = process.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: process.pid not in (None, first), 60, "another process")

    assert keeper.restarts == 1
    until(lambda: seen == ["starting", "running", "restarting", "running"], 60, "every state told")


def test_a_process_that_keeps_ending_is_given_up_with_its_last_words(keep, tmp_path):
    words = json.dumps(
        {"event": "x", "code": "bus-unavailable", "message": "No broker.", "hint": "Start it."}
    )
    keeper = keep(service(tmp_path, f"print({words!r}); raise SystemExit(3)"), delays_s=(0.01, 0.01))
    until(lambda: keeper.error, 60, "the keeper to give up")

    assert keeper.error.code == "service-failing"
    assert "3 times in a row. No broker." in keeper.error.message
    assert keeper.error.hint == "Start it."


def test_a_process_that_refuses_to_run_is_not_started_again(keep, tmp_path):
    words = json.dumps({"code": "settings-invalid", "message": "HISTGEN_BUS is missing.", "hint": "Set it."})
    keeper = keep(service(tmp_path, f"print({words!r}); raise SystemExit(78)"), delays_s=(0.01,) * 9)
    until(lambda: keeper.error, 60, "the refusal")

    assert (keeper.restarts, keeper.error.code) == (0, "service-refused")
    assert keeper.error.message == "The tiler cannot run: HISTGEN_BUS is missing. [settings-invalid]"
    assert keeper.state == "failed"


def test_a_program_that_cannot_be_started_is_an_error_not_a_silence(keep, tmp_path):
    (tmp_path / "file").touch()
    keeper = keep(ServiceProcess("tiler", SLEEPER, {}, tmp_path / "file" / "x.log", grace_s=1))

    assert keeper.error.code == "service-refused"


def test_stopping_lets_a_process_drain(keep, tmp_path):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('drained', flush=True), sys.exit(0)))\n"
        "print('up', flush=True); time.sleep(600)"
    )
    process = service(tmp_path, code)
    keeper = keep(process)
    until(lambda: "up" in process.log_path.read_text(), 60, "the process")
    keeper.join()

    assert process.log_path.read_text() == "up\ndrained\n"
    assert (keeper.state, process.pid) == ("stopped", None)


def test_a_process_that_will_not_stop_is_killed_after_its_grace(keep, tmp_path):
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    process = service(tmp_path, code, grace_s=0.1)
    keeper = keep(process)
    until(lambda: "up" in process.log_path.read_text(), 60, "the process")
    keeper.join()

    assert process.pid is None


def test_processes_die_with_a_keeper_that_is_killed(tmp_path):
    log = tmp_path / "log"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from histgen_lib.stack.processes import Keeper, ServiceProcess\n"
        f"p = ServiceProcess('t', {SLEEPER!r}, {{}}, Path({str(log)!r}), grace_s=1)\n"
        "k = Keeper('t', p); k.start(); k.wait_running(10); print(p.pid, flush=True); time.sleep(600)"
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


def test_a_log_that_grows_is_cut_and_its_last_part_kept(tmp_path):
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


def test_last_words_of_a_log_without_any_are_its_last_line(tmp_path):
    (tmp_path / "a.log").write_text("Traceback\nModuleNotFoundError: no x\n\n")

    assert last_words(tmp_path / "a.log") == ("", "ModuleNotFoundError: no x", "")
    assert last_words(tmp_path / "absent.log") == ("", "", "")
