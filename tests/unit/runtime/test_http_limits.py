"""Slow, many and malformed clients are cut off, and hold up nobody else, on every server of ours."""

from __future__ import annotations

import io
import json
import logging
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from service_access import locked
from slow_peers import GET, ask, connect, heard, status_of
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waiting import until

from histgen_lib.runtime.board import Board
from histgen_lib.runtime.web.guard import HEAD_BYTES, MOST_HEADERS, Limits
from histgen_lib.runtime.web.server import health_app, serving
from histgen_lib.telemetry import configure_logging

FEW = 10
PATIENT = {"head_s": 600.0, "body_s": 600.0}
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def log() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Return the log lines."""
    root = logging.getLogger()
    before, written = root.handlers[:], io.StringIO()
    configure_logging("test", stream=written)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.handlers[:] = before


@contextmanager
def worker(host: str = "127.0.0.1", **limits: Any) -> Iterator[str]:
    """Serve the pages of a worker."""
    with serving(locked(health_app(Board("tiler"))), host, 0, Limits(**limits)) as url:
        yield url


def _logged_seldom(lines: list[dict[str, Any]], first: str) -> None:
    """Check that the first cut was logged at once and the others once a minute."""
    assert {line["event"] for line in lines} == {"Connections were cut off."}
    assert lines[0]["reason"] == first
    assert len(lines) <= FEW


def test_requests_are_answered_however_many_connections_wait(log):
    """Also from the same address: on loopback all clients share one."""
    with ExitStack() as peers, worker(connections=40, peer_connections=20, **PATIENT) as url:
        for number in range(400):
            sent = (b"", HEAD, POST + b"content-length: 9\r\n\r\n", GET)[number % 4]
            peers.enter_context(connect(url, sent=sent))
            if number % 50 == 0:
                for page in ("healthz", "metrics"):
                    assert httpx.get(f"{url}/{page}", timeout=60).status_code == 200
        assert httpx.get(f"{url}/metrics", timeout=60).status_code == 200
    _logged_seldom(log(), "crowded: 1")


def test_connections_are_limited_per_address_and_in_all():
    with ExitStack() as opened, worker(connections=30, peer_connections=12, **PATIENT) as url:
        first = [opened.enter_context(connect(url, source="127.0.0.2", sent=HEAD)) for _ in range(12)]
        others = [
            opened.enter_context(connect(url, source=f"127.0.0.{3 + n % 2}", sent=HEAD)) for n in range(18)
        ]
        opened.enter_context(connect(url, source="127.0.0.2", sent=HEAD))
        assert heard(first.pop(0)) == b"", "the oldest of the address that has too many"
        opened.enter_context(connect(url, source="127.0.0.9", sent=HEAD))
        assert heard(first.pop(0)) == b"", "the oldest of the address that has most, when all have too many"
        for peer in (*first, *others):
            peer.sendall(b"\r\n")
            assert status_of(peer.recv(65536)) == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET",
        HEAD,
        POST + b"content-length: 100000\r\n\r\nx",
        POST + b"transfer-encoding: chunked\r\n\r\n5\r\nhello",
        GET,
        GET + HEAD,
        GET * 3,
    ],
)
def test_a_client_that_stops_sending_is_cut_off(sent: bytes):
    with worker(head_s=0.2, body_s=0.2) as url:
        ask(url, sent)


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (b"GET /healthz HTTP/1.1\r\n", b"x: y\r\n"),
        (GET + b"GET /healthz HTTP/1.1\r\n", b"x: y\r\n"),
        (POST + b"content-length: 1000000\r\n\r\n", b"x"),
        (POST + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
)
def test_an_endless_trickle_is_cut_off(begin: bytes, drop: bytes):
    """Bytes do not extend the time: it covers the whole head, and the whole body."""

    def pours(peer: socket.socket) -> bool:
        try:
            peer.sendall(drop)
        except ConnectionError:
            return False
        return True

    with worker(head_s=0.5, body_s=0.5) as url, connect(url, sent=begin) as peer:
        until(lambda: not pours(peer), 60, "it hangs up", every_s=0.05)


def test_a_client_that_never_reads_is_cut_off(log):
    async def page(_: Any) -> Response:
        return Response(b"x" * (32 << 20))

    app = Starlette(routes=[Route("/healthz", page)])
    with (
        serving(locked(app), "127.0.0.1", 0, Limits(peer_connections=2, **PATIENT)) as url,
        ExitStack() as peers,
    ):
        for _ in range(8):
            peers.enter_context(connect(url, sent=GET * 20))
        assert len(httpx.get(f"{url}/healthz", timeout=60).content) == 32 << 20
        assert until(log, 60, "a warning")[0]["reason"] == "crowded: 1"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (HEAD + b"x: " + b"a" * (1 << 20) + b"\r\n\r\n", 400),
        (HEAD + b"x: y\r\n" * 100_000 + b"\r\n", 400),
        (HEAD + b"x: y\r\n" * MOST_HEADERS + b"\r\n", 431),
        (HEAD + b"x: " + b"a" * (HEAD_BYTES - 100) + b"\r\n\r\n", 200),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (HEAD + b"Host: localhost\r\n\r\n", 400),
        (POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (POST + b"content-length: -1\r\n\r\n", 400),
        (POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + GET, 400),
        (GET.replace(b"GET", b"BREW"), 405),
        (HEAD + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n", 200),
    ],
)
def test_malformed_requests_are_refused_and_cut_off(sent: bytes, status: int, log):
    with worker(head_s=1.0, body_s=1.0) as url:
        assert status_of(ask(url, sent)) in (status, 0 if len(sent) > 1 << 18 else status)
        assert httpx.get(f"{url}/healthz", timeout=60).status_code == 200
    assert [line["event"] for line in log()] in ([], ["Connections were cut off."])


def test_a_body_that_nobody_reads_is_not_received():
    with worker(**PATIENT) as url:
        answer = ask(url, POST + b"transfer-encoding: chunked\r\n\r\n" + b"11170\r\n" + b"x" * 70_000)
    assert status_of(answer) in (405, 0)


def test_a_body_whose_length_is_stated_twice_ends_the_connection():
    """To a proxy that believes the other length, what follows is the body of the first request."""
    with worker(**PATIENT) as url:
        twice = POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        assert ask(url, twice + GET).count(b"HTTP/1.1") == 1


def test_nobody_says_where_a_request_comes_from_but_the_connection():
    """Otherwise a caller would have as many addresses as it likes, and a wrong one in the audit log."""
    seen: list[str] = []

    async def page(request: Request) -> Response:
        seen.append(request.client.host if request.client else "")
        return Response()

    app = Starlette(routes=[Route("/healthz", page)])
    with serving(locked(app), "127.0.0.1", 0) as url:
        for name in ("x-forwarded-for", "forwarded", "x-real-ip"):
            httpx.get(f"{url}/healthz", headers={name: "203.0.113.7", "x-forwarded-proto": "https"})
    assert seen == ["127.0.0.1"] * 3


def test_pipelined_requests_are_answered_in_order():
    with worker(head_s=0.5) as url:
        assert ask(url, GET * 50).count(b"200 OK") == 50


def test_thousands_of_malformed_requests_make_one_log_line(log):
    with worker() as url:
        for _ in range(300):
            ask(url, b"\0\r\n\r\n")
        assert httpx.get(f"{url}/metrics", timeout=60).status_code == 200
    _logged_seldom(log(), "malformed: 1")


def test_further_cuts_are_logged_together_after_a_minute(log, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("histgen_lib.runtime.web.connections.WARN_EVERY_S", 0.5)
    with worker() as url:
        for _ in range(3):
            ask(url, b"\0\r\n\r\n")
        until(lambda: sum(line["count"] for line in log()) == 3, 60, "all are counted")
    assert len(log()) <= 3


def test_connections_leave_most_file_descriptors_for_the_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert Limits().affordable == 64
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert Limits().affordable == Limits().connections


@pytest.mark.parametrize(
    ("host", "sent", "status"),
    [
        *(
            ("127.0.0.1", sent, 200)
            for sent in ("localhost", "LOCALHOST:1", "localhost.", "127.0.0.1:65535", "127.9.9.9", "[::1]:80")
        ),
        *(
            ("127.0.0.1", sent, 403)
            for sent in (
                "evil.example",
                "evil.example:80",
                "10.0.0.1",
                "[::2]",
                "localhost.evil.example",
                "a.localhost",
            )
        ),
        *(
            ("127.0.0.1", sent, 403)
            for sent in ("", "localhost:x", "localhost@evil", "127.0.0.1.evil", "127.1")
        ),
        ("127.0.0.1", "gateway.lab:8080", 200),
        ("0.0.0.0", "10.1.2.3:8080", 200),
        ("0.0.0.0", "GATEWAY.lab", 200),
        ("0.0.0.0", "evil.example", 403),
    ],
)
def test_a_server_answers_only_to_its_own_names(host: str, sent: str, status: int):
    """A web page whose host name points here (DNS rebinding) sends that name."""
    with worker(host, names=("gateway.lab",)) as url:
        port = url.rpartition(":")[2]
        for page in ("healthz", "metrics", "status", "none"):
            answer = httpx.get(f"http://127.0.0.1:{port}/{page}", headers={"host": sent}, timeout=60)
            if status == 403:
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "request-host")
            else:
                assert answer.status_code != 403
