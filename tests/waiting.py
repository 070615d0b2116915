"""Waiting in tests: for a condition with a deadline, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], timeout_s: float, what: str, *, every_s: float = 0.01) -> T:
    """Return the first true result of `condition`; fail after `timeout_s`, naming `what` was awaited.

    `every_s`: the pause between two checks; longer for a costly condition.
    """
    end = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"not within {timeout_s:g} s: {what}"
        time.sleep(every_s)
