"""Child processes of the local stack: started so that they die with us, stopped, and how they ended."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

_SHELL_SIGNAL = 128
"""What programs that catch a signal add to its number (Java does, shells do)."""
PERMANENT_CODES = frozenset(
    {
        *("settings-invalid", "bus-url", "bus-settings", "storage-url", "inference-url", "inference-stated"),
        *("secret-exposed", "tracing-missing", "stack-home", "stack-running", "service-refused"),
        *("model-missing", "model-config", "model-config-invalid", "model-incomplete", "model-mean-pooled"),
        *("kafka-missing", "kafka-failed", "triton-missing", "triton-numpy", "triton-door", "triton-failed"),
    }
)
"""Error codes that a person must resolve: wrong settings, or something to install. Any other end of a process
may be temporary: room, memory, a port, an unavailable disk or share, an installation or copy in progress."""
_WRONG_SETTINGS = re.compile(
    r"ConfigException|doesn't match previous|Invalid cluster\.id|no such option|unrecognized option"
    r"|unrecognized argument",
    re.IGNORECASE,
)
"""What Kafka and tritonserver write about wrong settings, and about data of another broker."""
_TAIL_BYTES = 1 << 20
_REFUSAL = 78
"""The exit code of our own programs in front of a server if the machine lacks what they need."""


def dying_with_parent(command: Sequence[str]) -> list[str]:
    """Return a command whose process the kernel kills when the thread that starts it ends, however it ends.

    It uses util-linux's setpriv; without one the command is returned unchanged. A `preexec_fn` could hang if
    there are other threads. The shell in between exits if we ended before setpriv took effect.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return list(command)
    ours = f'[ "$PPID" = {os.getpid()} ] && exec "$@"'
    return [setpriv, "--pdeathsig", "KILL", "--", "sh", "-c", ours, "sh", *command]


class Waker:
    """Lets a thread wait for the end of a process, and be woken before that."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)

    def wake(self) -> None:
        """End the current or the next wait."""
        with contextlib.suppress(OSError):  # it has been woken often enough
            self._writer.send(b".", socket.MSG_DONTWAIT)

    def wait(self, pid: int, timeout_s: float) -> None:
        """Return when the process has ended, on `wake`, or after the timeout."""
        waiting = select.poll()
        waiting.register(self._reader, select.POLLIN)
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        except (OSError, AttributeError):  # the system has no process descriptors
            waiting.poll(min(timeout_s, 0.2) * 1000)
            return
        try:
            waiting.register(process, select.POLLIN)
            waiting.poll(timeout_s * 1000)
        finally:
            os.close(process)


def free_port() -> int:
    """Return a TCP port that is free on 127.0.0.1 now."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    """Return whether something listens on that port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a session leader has ended; if so, end whatever it left in its process group.

    A child that is stopped (SIGSTOP) before it can ask the kernel to die with its parent would stay forever.
    """
    with contextlib.suppress(ChildProcessError):  # another thread has just reaped it
        if process.returncode is None:
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
            end_group(process.pid)  # before the process is reaped, so that its id cannot be reused
    return process.poll() is not None


def end_group(leader: int) -> None:
    """Kill a process group; no error if it is empty."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def end_strays(variable: str) -> None:
    """Kill processes that have this `NAME=value` in their environment and whose group leader is gone.

    The leader was a service; if it was killed together with its supervisor, nobody ended its group.
    """
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended, or belongs to another account
            pid = int(path.name)
            if os.fsencode(variable) in (path / "environ").read_bytes().split(b"\0"):
                leader = os.getpgid(pid)
                if not Path(f"/proc/{leader}").exists():
                    os.kill(pid, signal.SIGKILL)


def end(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """Ask a process to stop, and kill it if it has not within `grace_s`."""
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def describe_exit(exit_code: int | None) -> str:
    """Describe how a process ended, by what `Popen.poll` returns."""
    if exit_code is None:
        return "did not start in time"
    number = _signal(exit_code)
    if number is None:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(number).name}"
    except ValueError:
        return f"was ended by signal {number}"


def is_retryable(exit_code: int | None, log: str, *, was_up: bool) -> bool:
    """Return whether a server that ended, or did not start in time (None), may succeed another time.

    It may, unless its `log` says that its settings or data are wrong and it never was up with them
    (`was_up`). A server that logged nothing may: on a full disk it cannot.
    """
    if was_up or exit_code is None or _signal(exit_code) is not None:
        return True
    return exit_code != _REFUSAL and not _WRONG_SETTINGS.search(log)


def written_since(log: Path, start: int) -> str:
    """Return what a log received since it was `start` bytes long, or the end of that if it is long.

    If the log was truncated meanwhile, return all of it.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= size else 0, size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _signal(exit_code: int) -> int | None:
    if exit_code < 0:
        return -exit_code
    return exit_code - _SHELL_SIGNAL if exit_code > _SHELL_SIGNAL else None
