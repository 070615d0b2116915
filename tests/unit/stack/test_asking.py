"""What a service answers becomes a value or an error of ours, whatever it answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.stack.asking import get_json, post_json
from histgen_lib.stack.children import free_port
from histgen_lib.stack.workers import look

REFUSAL = {"error": {"code": "slide-missing", "message": "There is no file a.svs.", "hint": "Check it."}}


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """Answer everything with what the test puts into `answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.server.got = self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def do_GET(self) -> None:
            status, body = self.server.answer
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_: object) -> None: ...

    serving = HTTPServer(("127.0.0.1", 0), Handler)
    serving.url = f"http://127.0.0.1:{serving.server_port}"
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield serving
    serving.shutdown()
    thread.join()
    serving.server_close()


def refused(url: str) -> HistgenError:
    with pytest.raises(HistgenError) as caught:
        post_json(f"{url}/slides", {"uri": "file:///a.svs"})
    return caught.value


def test_an_answer_is_returned(server):
    server.answer = (202, {"status": "accepted"})

    assert post_json(f"{server.url}/slides", {"uri": "x"}) == {"status": "accepted"}
    assert json.loads(server.got) == {"uri": "x"}


@pytest.mark.parametrize(
    ("status", "kind"), [(404, InvalidInputError), (409, InvalidInputError), (503, TransientError)]
)
def test_a_refusal_keeps_the_gateways_own_words(server, status, kind):
    server.answer = (status, REFUSAL)
    error = refused(server.url)

    assert type(error) is kind
    assert (error.code, error.message, error.hint) == tuple(REFUSAL["error"].values())


@pytest.mark.parametrize(
    "answer", [(200, b"<html>"), (200, [1]), (404, b"nothing"), (404, {"error": "no"}), (302, {})]
)
def test_another_server_is_told_from_a_gateway(server, answer):
    server.answer = answer
    error = refused(server.url)

    assert isinstance(error, FatalError)
    assert error.code == "gateway-answer"


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_gateway_that_ends_or_a_proxy_before_it_may_be_tried_again(server, status):
    server.answer = (status, b"Internal Server Error")
    error = refused(server.url)

    assert isinstance(error, TransientError)
    assert error.code == "gateway-unreachable"


@pytest.mark.parametrize(
    "url", [f"http://127.0.0.1:{free_port()}", "http://[", "nonsense", "http://127.0.0.1:x"]
)
def test_a_gateway_that_is_not_there_may_be_tried_again(url):
    error = refused(url)

    assert isinstance(error, TransientError)
    assert error.code == "gateway-unreachable"


def test_a_service_that_answers_nonsense_is_shown_as_one_that_does_not_answer(server, tmp_path):
    server.answer = (200, {"phase": 1})
    (tmp_path / "tiler-1.json").write_text(json.dumps({"name": "tiler", "pid": 1, "url": server.url}))
    (tmp_path / "broken-1.json").write_text("{")
    (worker,) = look(tmp_path)

    assert (worker.name, worker.answers, worker.ready) == ("tiler", False, False)


def test_a_service_in_trouble_is_no_answer(server):
    server.answer = (500, {})
    with pytest.raises(OSError, match="500"):
        get_json(server.url)
