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


def dying_with_parent(command: Sequence[str]) -> list[str]:
    """Return a command whose process the kernel kills when the thread that starts it ends, however that ends.

    By util-linux' setpriv, which no Linux lacks; elsewhere the command stays as it is. Not by a `preexec_fn`:
    that may hang where threads run. The shell in between ends if we ended before setpriv had its say.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return list(command)
    ours = f'[ "$PPID" = {os.getpid()} ] && exec "$@"'
    return [setpriv, "--pdeathsig", "KILL", "--", "sh", "-c", ours, "sh", *command]


class Waker:
    """Wakes a thread that waits for the end of a process: at that end, or when it is rung."""

    def __init__(self) -> None:
        self._ear, self._clapper = socket.socketpair()
        self._ear.setblocking(False)

    def ring(self) -> None:
        """Wake whoever waits now or next."""
        with contextlib.suppress(OSError):  # it was rung often enough
            self._clapper.send(b".", socket.MSG_DONTWAIT)

    def wait(self, pid: int, timeout_s: float) -> None:
        """Return when a process has ended, when the bell is rung, or after a time."""
        waiting = select.poll()
        waiting.register(self._ear, select.POLLIN)
        try:
            ending = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        except (OSError, AttributeError):  # a system without such descriptors
            waiting.poll(min(timeout_s, 0.2) * 1000)
            return
        try:
            waiting.register(ending, select.POLLIN)
            waiting.poll(timeout_s * 1000)
        finally:
            os.close(ending)


def free_port() -> int:
    """Return a TCP port that is free on 127.0.0.1 now."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    """Say whether something listens on that port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the leader of a session has ended; whatever it leaves in its group is ended with it.

    A child that is stopped (SIGSTOP) before it can ask the kernel to die with its parent would stay for ever.
    """
    with contextlib.suppress(ChildProcessError):  # another thread has just asked
        if process.returncode is None:
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
            end_group(process.pid)  # while nobody else can have its number
    return process.poll() is not None


def end_group(leader: int) -> None:
    """Kill whatever is in a process group; no error if nothing is."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def end_strays(variable: str) -> None:
    """Kill processes that have this `NAME=value` in their environment, and whose group's leader is gone.

    The leader was a service; nobody was there to end its group if it was killed together with its supervisor.
    """
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended, or is another account's
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
"""The codes of what a person stated, or has to install. Whatever else a process ends with may pass: room,
memory, a port, a disk or a share that is away, somebody who is just installing or copying something."""
_STATED_WRONGLY = re.compile(
    r"ConfigException|doesn't match previous|Invalid cluster\.id|no such option|unrecognized option"
    r"|unrecognized argument",
    re.IGNORECASE,
)
"""What Kafka and tritonserver write of settings, and of data that are another broker's."""
_TAIL_BYTES = 1 << 20
_REFUSAL = 78
"""What our own programs in front of a server end with where the machine cannot do what is needed."""


def describe_exit(exit_code: int | None) -> str:
    """Say in words how a process ended, by what `Popen.poll` gives."""
    if exit_code is None:
        return "has not come up in time"
    number = _signal(exit_code)
    if number is None:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(number).name}"
    except ValueError:
        return f"was ended by signal {number}"


def is_retryable(exit_code: int | None, told: str, *, was_up: bool) -> bool:
    """Say whether a server that ended, or did not come up (None), may fare better another time.

    It may, unless it says itself that its settings or its data are wrong, and never was up with them
    (`was_up`). A server whose log tells nothing may: a disk that is full takes no words.
    """
    if was_up or exit_code is None or _signal(exit_code) is not None:
        return True
    return exit_code != _REFUSAL and not _STATED_WRONGLY.search(told)


def written_since(log: Path, start: int) -> str:
    """Return what a log has got since it was `start` bytes long, or the end of that if it is much.

    Of a log that was cut meanwhile all of it.
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
