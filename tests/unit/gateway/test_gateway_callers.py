"""Who sends a request: the account at the other end, if the kernel knows it."""

from __future__ import annotations

import os
import socket
from contextlib import closing

import pytest

from histgen_lib import sockets
from histgen_lib.catalogue.audit import this_account
from services.gateway.http import caller


@pytest.mark.parametrize(
    ("family", "listen_at", "call_at"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "127.0.0.1"),
    ],
)
def test_a_caller_on_this_machine_is_named_by_its_account(family, listen_at, call_at):
    with closing(socket.socket(family)) as server:
        if listen_at == "::":
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind((listen_at, 0))
        server.listen()
        port = server.getsockname()[1]
        with closing(socket.create_connection((call_at, port))) as client:
            address, from_port = client.getsockname()[:2]
            assert caller(address, from_port, port) == this_account()
            assert caller(address, from_port, port ^ 1) == call_at


def test_the_account_is_that_of_this_very_connection(tmp_path, monkeypatch):
    """The kernel shows a connection that was just closed as root's."""
    line = (
        "  0: 0100007F:1F90 0100007F:{port:04X} {state} 00000000:00000000 00:00000000 00000000 {uid} 0 1 1\n"
    )
    rows = [(0x51, "01", 1), (0x50, "06", 0), (0x50, "01", 4294967)]
    lines = [line.format(port=port, state=state, uid=uid) for port, state, uid in rows]
    (tmp_path / "tcp").write_text("".join(["  sl  local_address\n", *lines]))
    monkeypatch.setattr(sockets, "Path", lambda *parts: tmp_path / parts[-1])
    assert caller("127.0.0.1", 0x1F90, 0x50) == "uid 4294967"
    assert caller("127.0.0.1", 0x1F91, 0x50) == "127.0.0.1"


def test_a_remote_caller_is_named_by_its_address_and_nonsense_is_unknown():
    assert caller("192.0.2.7", 4000, 80) == "192.0.2.7"
    assert caller("testclient", 4000, 80) == "unknown"


def test_an_account_without_a_name_is_named_by_its_number(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4294967)
    assert this_account() == "uid 4294967"
