"""The systemd unit is valid, promises what the docs say, and really starts a stack."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from histgen_lib.stack import kafka, local, triton
from histgen_lib.stack.settings import StackSettings

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy" / "systemd" / "histgen.service"
INSTALLED = "/opt/histgen"


def settings() -> dict[str, list[str]]:
    found = defaultdict(list)
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


def test_systemd_accepts_it(tmp_path):
    """Where there is a systemd: unknown names and values that it would ignore are warnings."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here: the unit is checked by what it promises only")
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace(INSTALLED, str(ROOT)))
    verified = subprocess.run(
        ["systemd-analyze", "verify", here], capture_output=True, text=True, check=False, timeout=60
    )

    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Type", "notify"),
        ("Restart", "always"),
        ("StartLimitIntervalSec", "0"),  # never "start request repeated too quickly"
        ("KillMode", "mixed"),  # else systemd would stop the services besides `histgen up`, which stops them
        ("OOMPolicy", "continue"),  # else a job that lacks memory ends the whole stack
        ("NotifyAccess", "main"),
        ("UMask", "0077"),
        ("StateDirectoryMode", "0700"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "read-only"),
        ("PrivateTmp", "yes"),
        ("CapabilityBoundingSet", ""),
    ],
)
def test_it_promises(name, value):
    assert settings()[name] == [value]


def test_a_stop_may_take_as_long_as_the_stack_does_at_most():
    grace_s = StackSettings(Path("home"), Path("model")).grace_s + local._EXTRA_GRACE_S
    servers_s = triton._DRAIN_S + triton._LAST_S + kafka._GRACE_S

    assert float(settings()["TimeoutStopSec"][0]) >= grace_s + servers_s + 30


@contextmanager
def listening() -> Iterator[socket.socket]:
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear,
    ):
        ear.bind(f"{folder}/notify")
        ear.settimeout(120)
        yield ear


def command_line(up: str) -> list[str]:
    """Read ExecStart as systemd does: a variable that stands alone is split at blanks."""
    (line,) = settings()["ExecStart"]
    words = shlex.split(line.replace(INSTALLED, str(ROOT)))
    return [part for word in words for part in (up.split() if word == "$HISTGEN_UP" else [word])]


def environment(home: Path) -> dict[str, str]:
    (assignment,) = settings()["Environment"]
    name, _, value = assignment.partition("=")
    assert value == f"/var/lib/{settings()['StateDirectory'][0]}"
    return {name: str(home)}


def test_the_stack_it_starts_notifies_ready_alive_and_stopping(tmp_path, model_dir):
    command = command_line(f"--inference onnx --model {model_dir}")
    with listening() as ear:
        notify = {"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "3000000"}
        started = subprocess.Popen(
            command,
            env={**os.environ, **environment(tmp_path / "home"), **notify},
            stdout=subprocess.DEVNULL,
        )
        try:
            heard = until_heard(ear, "STATUS=Ready at http://127.0.0.1:")
            started.send_signal(signal.SIGTERM)
            heard += until_heard(ear, "STOPPING=1")
            assert started.wait(120) == 0
        finally:
            started.kill()
            started.wait()
    messages = [line for lines in heard for line in lines.splitlines()]

    assert messages.index("READY=1") < 2  # before anything that may have to be waited for
    assert messages.count("WATCHDOG=1") >= 2
    assert (tmp_path / "home" / "stack.json").exists()


def until_heard(ear: socket.socket, words: str) -> list[str]:
    heard: list[str] = []
    while not heard or words not in heard[-1]:
        heard.append(ear.recv(65536).decode())
    return heard
