"""The start of a stack waits out temporary failures, reports them, and is not delayed by a single server."""

from __future__ import annotations

import errno
import os

import pytest

from histgen_lib.errors import FatalError, TransientError
from histgen_lib.runtime.pulse import Backoff
from histgen_lib.runtime.stopping import Stop, Stopped
from histgen_lib.stack import local
from histgen_lib.stack.local import LocalStack, Notice
from histgen_lib.stack.processes import ProcessSupervisor, ServiceProcess
from histgen_lib.stack.settings import StackSettings


@pytest.fixture
def notices() -> list[Notice]:
    return []


@pytest.fixture
def stack(tmp_path, notices, monkeypatch):
    monkeypatch.setattr(local, "BACKOFF", Backoff(0.001, 0.001))
    return LocalStack(StackSettings(tmp_path / "home", tmp_path / "model"), on_notice=notices.append)


def step_that_fails(*errors: Exception):
    left = list(errors)

    def step() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return step


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_a_step_with_a_temporary_failure_is_retried_and_reported_once(stack, notices):
    lacks = (refused(errno.ENOSPC), refused(errno.EMFILE), TransientError("bus-unavailable", "Not now."))

    assert stack._retry(step_that_fails(*lacks)) == "done"
    assert [(notice.name, notice.trouble) for notice in notices] == [
        ("the start", "No space left on device."),
        ("the start", ""),
    ]


def test_a_permanent_error_ends_the_start(stack):
    with pytest.raises(FatalError, match="No such model"):
        stack._retry(step_that_fails(FatalError("model-missing", "No such model.")))
    with pytest.raises(PermissionError):
        stack._retry(step_that_fails(PermissionError(errno.EACCES, "no")))


def test_a_stop_ends_a_waiting_start(tmp_path):
    stop = Stop()
    stack = LocalStack(
        StackSettings(tmp_path / "home", tmp_path / "model"), stop=stop, on_notice=lambda _: stop.request()
    )
    with pytest.raises(Stopped):
        stack._retry(step_that_fails(*(refused(errno.ENOSPC) for _ in range(1000))))


def test_a_slow_broker_delays_the_services_only_briefly(stack, monkeypatch, tmp_path):
    """They wait for it themselves, and load their models meanwhile."""
    monkeypatch.setattr(local, "_HEAD_START_S", 0.05)
    never = ProcessSupervisor(
        "kafka", ServiceProcess("kafka", ["sleep", "1"], {}, tmp_path / "log", grace_s=1)
    )

    stack._await(never)

    assert never.state == "waiting"
