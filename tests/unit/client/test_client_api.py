"""Every answer of a service becomes a value or one of our errors."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from service_access import TOKEN

from histgen_lib import sockets
from histgen_lib.client.api import get_json, post_json, worker_states
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.stack.children import free_port

REFUSAL = {"error": {"code": "slide-missing", "message": "There is no file a.svs.", "hint": "Check it."}}


class Answering(HTTPServer):
    """Answers everything with what a test puts into `answer`, and notes what it is asked."""

    answer: tuple[int, Any] = (200, {})
    location, got = "", b""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.authorisations: list[str | None] = []


@pytest.fixture
def server() -> Iterator[Answering]:
    class Handler(BaseHTTPRequestHandler):
        server: Answering

        def do_POST(self) -> None:
            self.server.got = self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def do_GET(self) -> None:
            status, body = self.server.answer
            self.server.authorisations.append(self.headers["authorization"])
            self.send_response(status)
            if self.server.location:
                self.send_header("location", self.server.location)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_: object) -> None: ...

    serving = Answering(Handler)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield serving
    serving.shutdown()
    thread.join()
    serving.server_close()


def _as_of_uid(uid: int):
    """Find listeners as they are, and say that they are of another account."""
    found = sockets.listeners
    return lambda address, port: (uid for _ in found(address, port))


def refused(url: str) -> HistgenError:
    with pytest.raises(HistgenError) as caught:
        post_json(f"{url}/slides", {"uri": "file:///a.svs"}, TOKEN)
    return caught.value


def test_returns_the_gateways_answer(server):
    server.answer = (202, {"status": "accepted"})

    assert post_json(f"{server.url}/slides", {"uri": "x"}, TOKEN) == {"status": "accepted"}
    assert json.loads(server.got) == {"uri": "x"}
    assert server.authorisations == [f"Bearer {TOKEN}"]


def test_sends_no_token_without_one(server):
    server.answer = (202, {"status": "accepted"})
    post_json(f"{server.url}/slides", {"uri": "x"}, None)

    assert server.authorisations == [None]


def test_a_token_does_not_follow_a_redirect(server):
    other = free_port()
    with socket.create_server(("127.0.0.1", other)) as elsewhere:
        server.answer, server.location = (307, {}), f"http://127.0.0.1:{other}/slides"
        assert refused(server.url).code == "gateway-answer"
        elsewhere.setblocking(False)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_token_is_not_sent_to_another_account_that_took_the_port(server, monkeypatch, host):
    """While a server restarts, any account can take its port."""
    server.answer = (202, {})
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(sockets, "listeners", _as_of_uid(65534))

    error = refused(f"http://{host}:{server.server_port}")

    assert (error.code, server.authorisations) == ("gateway-unreachable", [])
    assert "another account" in error.message


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_the_owner_of_a_listener_is_found_however_it_is_bound(bound):
    with socket.create_server(
        (bound, 0), family=socket.AF_INET6 if ":" in bound else socket.AF_INET
    ) as listener:
        port = listener.getsockname()[1]
        address = "::1" if bound == "::1" else "127.0.0.1"
        assert list(sockets.listeners(address, port)) == [os.geteuid()]
        assert list(sockets.listeners("192.0.2.1", port)) == []


def test_a_wrong_token_is_a_fatal_error(server):
    server.answer = (401, {"error": {"code": "token-wrong", "message": "No.", "hint": "Look there."}})
    error = refused(server.url)

    assert isinstance(error, FatalError)
    assert error.code == "token-wrong"


@pytest.mark.parametrize(
    ("status", "kind"), [(404, InvalidInputError), (409, InvalidInputError), (503, TransientError)]
)
def test_a_refusal_keeps_the_gateways_message(server, status, kind):
    server.answer = (status, REFUSAL)
    error = refused(server.url)

    assert type(error) is kind
    assert (error.code, error.message, error.hint) == tuple(REFUSAL["error"].values())


@pytest.mark.parametrize(
    "answer", [(200, b"<html>"), (200, [1]), (404, b"nothing"), (404, {"error": "no"}), (302, {})]
)
def test_another_server_is_not_taken_for_a_gateway(server, answer):
    server.answer = answer
    error = refused(server.url)

    assert isinstance(error, FatalError)
    assert error.code == "gateway-answer"


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_gateway_shutting_down_or_behind_a_failing_proxy_is_retryable(server, status):
    server.answer = (status, b"Internal Server Error")
    error = refused(server.url)

    assert isinstance(error, TransientError)
    assert error.code == "gateway-unreachable"


@pytest.mark.parametrize(
    "url", [f"http://127.0.0.1:{free_port()}", "http://[", "nonsense", "http://127.0.0.1:x"]
)
def test_an_unreachable_gateway_is_retryable(url):
    error = refused(url)

    assert isinstance(error, TransientError)
    assert error.code == "gateway-unreachable"


def test_a_service_that_answers_nonsense_counts_as_not_answering(server, tmp_path):
    server.answer = (200, {"phase": 1})
    (tmp_path / "broken-1.json").write_text("{")
    (worker,) = worker_states(announced(tmp_path, server.url, own_token(tmp_path)))

    assert (worker.name, worker.answers, worker.ready) == ("tiler", False, False)


def test_a_service_is_sent_the_token_that_it_announced(server, tmp_path):
    server.answer = (200, {"phase": "idle", "missing": {}, "in_flight": None, "jobs_done": 3})
    (worker,) = worker_states(announced(tmp_path, server.url, own_token(tmp_path)))

    assert (worker.answers, worker.jobs_done) == (True, 3)
    assert server.authorisations == [f"Bearer {TOKEN}"]


def test_a_worker_reports_slides_set_aside(server, tmp_path):
    values = {"phase": "idle", "missing": {}, "in_flight": None, "jobs_done": 3}
    server.answer = (200, values | {"set_aside": {"count": 2, "codes": {"slide-away": 2}, "first": []}})
    (worker,) = worker_states(announced(tmp_path, server.url, own_token(tmp_path)))

    assert worker.set_aside == {"slide-away": 2}
    assert worker.ready


def test_a_service_whose_token_file_others_could_have_written_is_not_asked(server, tmp_path):
    path = own_token(tmp_path)
    path.chmod(0o644)
    (worker,) = worker_states(announced(tmp_path, server.url, path))

    assert (worker.answers, server.authorisations) == (False, [])


def own_token(folder: Path) -> Path:
    path = folder / "token"
    path.touch(0o600)
    path.write_text(TOKEN)
    return path


def announced(folder: Path, url: str, token_file: Path) -> Path:
    """Say what a service says of itself; return the folder."""
    values = {"name": "tiler", "pid": 1, "url": url, "token_file": str(token_file)}
    (folder / "tiler-1.json").write_text(json.dumps(values))
    return folder


def test_a_server_error_is_not_an_answer(server):
    server.answer = (500, {})
    with pytest.raises(OSError, match="500"):
        get_json(server.url, TOKEN)
