"""How a server of this machine ended, and whether what ended it may pass or a person has to mend it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

_SHELL_SIGNAL = 128
"""What programs that catch a signal add to its number (Java does, shells do)."""
FOR_A_PERSON = frozenset(
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


def how_ended(exit_code: int | None) -> str:
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


def may_pass(exit_code: int | None, told: str, *, was_up: bool) -> bool:
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
