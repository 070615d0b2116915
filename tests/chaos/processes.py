"""A service process under test: started as a supervisor would, observed from outside, and killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from service_access import bearer_of
from waiting import until

from histgen_lib.stack.children import dying_with_parent

START_S = 60.0
_SAMPLE = re.compile(r"(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")


class Service:
    """`python -m services.<name>` with settings from the environment; it logs to `log_path`.

    `code`: the folder whose code it runs, of another version; None for this version's.
    """

    def __init__(
        self,
        name: str,
        run_dir: Path,
        log_path: Path,
        environment: Mapping[str, str],
        code: Path | None = None,
    ) -> None:
        self.name, self.log_path, self._run_dir = name, log_path, run_dir
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                dying_with_parent([sys.executable, "-m", f"services.{name}"]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=code,
                env={**os.environ, "HISTGEN_TOKEN_FILE": str(run_dir.parent / "token"), **environment},
            )
        self.pid = self._process.pid
        self._client = httpx.Client(timeout=10.0)
        self._url = ""

    def await_listening(self) -> None:
        """Wait until it listens."""
        until(lambda: self.url, START_S, f"{self.name} listens; its log: {self.log_path}")

    @property
    def url(self) -> str:
        """Its URL; empty until it listens."""
        if not self._url:
            self.check_alive()
            try:
                record = json.loads((self._run_dir / f"{self.name}-{self.pid}.json").read_bytes())
            except (OSError, ValueError):
                return ""
            self._url = str(record["url"])
            self._client.headers.update(bearer_of(record["token_file"]))
        return self._url

    @property
    def exit_code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def check_alive(self) -> None:
        """Fail if it exited on its own."""
        assert self.exit_code is None, (
            f"{self.name} exited on its own with {self.exit_code}:\n{self.log_path.read_text()[-3000:]}"
        )

    def ready(self) -> bool:
        """Return whether its child process is ready and its dependencies are available."""
        return self._get("/readyz").status_code == 200 if self.url else False

    def status(self) -> dict[str, Any]:
        """Return /status; {} until it listens."""
        return self._get("/status").json() if self.url else {}

    def words(self) -> str:
        """Describe its state, for a failed test."""
        try:
            return str(self.status())
        except (httpx.HTTPError, AssertionError) as error:
            return f"no answer ({type(error).__name__})"

    def in_flight(self) -> dict[str, Any]:
        """Return the job in hand; {} if there is none."""
        return self.status().get("in_flight") or {}

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels."""
        pairs = {f'{label}="{value}"' for label, value in labels.items()}
        found = filter(None, map(_SAMPLE.fullmatch, self._get("/metrics").text.splitlines()))
        return sum(
            float(sample["value"])
            for sample in found
            if sample["name"] == name and pairs <= set((sample["labels"] or "").split(","))
        )

    def child(self) -> int | None:
        """Return the process id of the child that runs the jobs, if there is one."""
        for pid in _children(self.pid):
            if b"spawn_main" in _command(pid):
                return pid
        return None

    def kill(self) -> None:
        """Send SIGKILL, and wait until its child is gone too."""
        child = self.child()
        self._process.kill()
        self._process.wait()
        self._client.close()
        if child:
            until(lambda: not running(child), 60, f"the child process of a killed {self.name} is gone")

    def kill_child(self) -> bool:
        """Send SIGKILL to the child only; return False if there is none."""
        child = self.child()
        if child:
            os.kill(child, signal.SIGKILL)
        return bool(child)

    def freeze_child(self) -> int:
        """Freeze the child, so that its job takes as long as the test wants; return its process id."""
        until(self.ready, START_S, f"{self.name} is ready")
        child = until(self.child, START_S, f"a child process of {self.name}")
        freeze(child)
        return child

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def left(self, timeout_s: float = 60.0) -> int:
        """Wait until it has stopped; return its exit code."""
        try:
            return self._process.wait(timeout_s)
        finally:
            self._process.kill()
            self._process.wait()
            self._client.close()

    def _get(self, path: str) -> httpx.Response:
        self.check_alive()
        return self._client.get(self._url + path)


def freeze(pid: int) -> None:
    """Send SIGSTOP to a process."""
    os.kill(pid, signal.SIGSTOP)


def thaw(pid: int) -> None:
    """Send SIGCONT to a process."""
    os.kill(pid, signal.SIGCONT)


def running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    return _state(pid)[0] not in {"", "Z", "X"}


def _children(parent: int) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return sorted(pid for pid in pids if _state(pid)[1] == parent and running(pid))


def _state(pid: int) -> tuple[str, int]:
    """Return the state letter and parent of a process; ("", 0) if it does not exist."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[1])


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
