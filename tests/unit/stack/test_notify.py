"""systemd is told what it asks for, by this process alone, and nobody is where there is none."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from histgen_lib.stack.monitoring import Notifier


@pytest.fixture
def ear():
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear,
    ):
        ear.bind(str(Path(folder) / "s"))
        ear.settimeout(60)
        yield ear


def test_what_is_said_arrives(ear):
    Notifier({"NOTIFY_SOCKET": ear.getsockname()}).notify("READY=1", "STATUS=Starting")

    assert ear.recv(4096) == b"READY=1\nSTATUS=Starting"


def test_an_abstract_socket_is_reached():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"\0histgen-test-{os.getpid()}")
        ear.settimeout(60)
        Notifier({"NOTIFY_SOCKET": f"@histgen-test-{os.getpid()}"}).notify("READY=1")
        assert ear.recv(4096) == b"READY=1"


def test_it_beats_in_time_until_the_block_is_over(ear):
    told = {"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "30000", "WATCHDOG_PID": str(os.getpid())}
    with Notifier(told).beating():
        assert [ear.recv(64) for _ in range(4)] == [b"WATCHDOG=1"] * 4


def test_what_it_starts_is_not_told_and_cannot_speak_for_it(ear):
    environment = {"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "9", "WATCHDOG_PID": "1", "HOME": "/"}
    notifier = Notifier(environment)

    assert environment == {"HOME": "/"}
    assert notifier.limit_s == 0  # another process is watched


@pytest.mark.parametrize("address", ["", "/nowhere/at/all"])
def test_without_a_systemd_that_listens_nothing_happens(address):
    with Notifier({"NOTIFY_SOCKET": address}).beating():
        Notifier({"NOTIFY_SOCKET": address}).notify("READY=1")
