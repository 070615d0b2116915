"""What every server process of the local stack needs: a free port, an end with its parent, a clean stop."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence

OWNER_ONLY = 0o077
"""The umask of whatever a stack starts: logs, broker, drafts and memory are nobody else's business."""


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


def end(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """Ask a process to stop, and kill it if it has not within `grace_s`."""
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
