"""systemd gets the notifications that it expects, from this process alone."""

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


def test_a_notification_arrives(ear):
    Notifier({"NOTIFY_SOCKET": ear.getsockname()}).notify("READY=1", "STATUS=Starting")

    assert ear.recv(4096) == b"READY=1\nSTATUS=Starting"


def test_an_abstract_socket_is_reached():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"\0histgen-test-{os.getpid()}")
        ear.settimeout(60)
        Notifier({"NOTIFY_SOCKET": f"@histgen-test-{os.getpid()}"}).notify("READY=1")
        assert ear.recv(4096) == b"READY=1"


def test_signs_of_life_are_sent_until_the_block_ends(ear):
    environment = {
        "NOTIFY_SOCKET": ear.getsockname(),
        "WATCHDOG_USEC": "30000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    with Notifier(environment).beating():
        assert [ear.recv(64) for _ in range(4)] == [b"WATCHDOG=1"] * 4


def test_child_processes_cannot_notify_for_it(ear):
    environment = {"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "9", "WATCHDOG_PID": "1", "HOME": "/"}
    notifier = Notifier(environment)

    assert environment == {"HOME": "/"}
    assert notifier.limit_s == 0  # another process is watched


@pytest.mark.parametrize("address", ["", "/nowhere/at/all"])
def test_nothing_happens_without_a_listening_systemd(address):
    with Notifier({"NOTIFY_SOCKET": address}).beating():
        Notifier({"NOTIFY_SOCKET": address}).notify("READY=1")
