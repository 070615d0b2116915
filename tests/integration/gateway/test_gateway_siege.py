"""A real gateway under slow, many and malformed requests, and with files that do not answer."""

from __future__ import annotations

import os
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from gateway_process import GatewayProcess
from gateway_siege import ANSWERS, files_of, megabytes_of, send_malformed
from held_files import hung, leased
from own_certificates import certified
from slow_peers import GET, connect, connect_as_told
from waiting import until

PATIENT = {"http_head_s": 600, "http_body_s": 600}
FEW_FILES = (
    "-c",
    "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300)); "
    "runpy.run_module('services.gateway', run_name='__main__', alter_sys=True)",
)
"""A gateway that may have few files open: many systems grant a thousand."""
HALF_OPEN, SLOW, MALFORMED, FEW = 1100, 500, 3000, 10
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may have the kernel hold those who open")


@pytest.fixture
def many_files():
    """Raise this process's limit on file descriptors to what the test needs."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], min(4096, before[1])), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _file(gateway: GatewayProcess, name: str) -> Path:
    path = gateway.folder / f"{name}.svs"
    path.write_text(name)
    return path


def _warnings(gateway: GatewayProcess) -> list[str]:
    return [line["event"] for line in gateway.lines() if line["level"] != "info"]


def test_a_thousand_half_open_connections_stop_neither_http_nor_the_watched_folder(
    gateways, listener, many_files
):
    gateway = gateways(watch=True, **PATIENT).start(FEW_FILES)
    until(lambda: gateway.get("/readyz").status_code == 200, 60, "it is ready")
    begun = (
        b"",
        b"GET /metr",
        GET[:-2],
        b"POST /slides HTTP/1.1\r\nHost: localhost\r\ncontent-length: 9\r\n\r\n",
    )
    with ExitStack() as peers:
        for number in range(HALF_OPEN):
            source = f"127.0.0.{1 + number % 3}"
            peers.enter_context(connect(gateway.url, source=source, sent=begun[number % len(begun)]))
        for page in ("/metrics", "/healthz", "/readyz", "/status"):
            assert gateway.get(page).status_code == 200
        assert gateway.slide(_file(gateway, "posted")).json()["status"] in ("accepted", "duplicate")
        _file(gateway, "watched")
        listener.until_heard(2, 60)
        assert files_of(gateway.pid) < 300
    assert {event.key for event in listener.events} == {"posted", "watched"}
    assert len(_warnings(gateway)) <= FEW


@pytest.fixture(params=["http", "https"])
def siege(request, gateways, tmp_path) -> GatewayProcess:
    """Start a gateway with plain HTTP, and one with TLS; nobody's rate is limited."""
    tls = {}
    if request.param == "https":
        tls["tls_cert"], tls["tls_key"], _ = certified(tmp_path)
    return gateways(http_head_s=0.5, http_body_s=0.5, http_rate=0, **tls).start()


def _begins(gateway: GatewayProcess, peers: ExitStack) -> bool:
    """Begin a request, over TLS after its handshake, and leave it; a busy machine may fail at that."""
    try:
        peers.enter_context(connect_as_told(gateway.url)).sendall(GET[:5])
    except OSError:
        return False
    return True


def _serves(gateway: GatewayProcess) -> bool:
    try:
        return gateway.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_malformed_requests_and_slow_connections_leave_the_gateway_as_it_was(siege, listener, many_files):
    """Over TLS the slow ones stop before, in and after their handshakes."""
    siege.slide(_file(siege, "before"))
    files, megabytes = files_of(siege.pid), megabytes_of(siege.pid)
    begun = (b"", GET[:1], b"\x16", b"\x16\x03\x01\x02\x00\x01", GET[:-2])
    with ExitStack() as peers:
        for number in range(SLOW):
            peers.enter_context(connect(siege.url, sent=begun[number % len(begun)]))
            if number % 100 == 0:
                until(lambda: _begins(siege, peers), 60, "a request begins")
                until(lambda: _serves(siege), 60, "others are served")
        answers = send_malformed(siege.url, MALFORMED, siege.key)

    assert set(answers) <= ANSWERS, answers
    assert siege.slide(_file(siege, "after")).json()["status"] == "accepted"
    until(lambda: files_of(siege.pid) <= files + 2, 60, "all connections to end")
    assert siege.get("/status").json()["requests"] == 0
    assert megabytes_of(siege.pid) < megabytes + 100
    assert [event.key for event in listener.until_heard(2, 60)] == ["before", "after"]
    warnings = [event for event in _warnings(siege) if event != "Given up."]
    assert warnings == ["Connections were cut off."] * len(warnings)
    assert len(warnings) <= FEW


@as_root
def test_posts_of_hanging_files_do_not_block_other_posts(gateways):
    """One file is read at a time, and six hang."""
    gateway = gateways(hash_threads=1, open_s=600).start()
    held = [_file(gateway, f"hung-{number}") for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        with hung(*held):
            posts = [pool.submit(gateway.slide, path) for path in held]
            until(lambda: gateway.get("/status").json()["requests"] == 6, 60, "all are in hand")
            assert gateway.slide(_file(gateway, "good")).json()["status"] == "accepted"
            assert not any(post.done() for post in posts)
        assert [post.result().json()["status"] for post in posts] == ["accepted"] * 6


@as_root
def test_a_hanging_file_is_refused_in_time_and_the_watched_folder_goes_on(gateways, listener):
    gateway = gateways(watch=True, open_s=2.0, hash_threads=1).start()
    elsewhere = gateway.folder / ".hidden"
    elsewhere.mkdir()
    posted, watched = elsewhere / "posted.svs", gateway.folder / "a-watched.svs.part"
    posted.write_text("posted")
    watched.write_text("watched")
    with hung(posted, watched):
        watched.rename(gateway.folder / "a-watched.svs")
        for _ in range(3):
            answer = gateway.slide(posted)
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "slide-open-timeout")
        for name in ("b", "c"):
            _file(gateway, name)
        listener.until_heard(2, 60)
        assert {event.key for event in listener.events} == {"b", "c"}
        until(lambda: gateway.get("/readyz").status_code == 200, 60, "it is ready")
    listener.until_heard(3, 120)
    until(lambda: gateway.slide(posted).status_code == 202, 60, "it is taken once it can be opened")
    assert {event.key for event in listener.until_heard(4, 60)} == {"a-watched", "b", "c", "posted"}


def test_leases_and_pipes_are_refused_and_hold_up_nobody(gateways):
    gateway = gateways(hash_threads=1).start()
    held = [_file(gateway, f"leased-{number}") for number in range(6)]
    pipe = gateway.folder / "pipe.svs"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(7) as pool, leased(*held):
        posts = [pool.submit(gateway.slide, path) for path in held]
        until(lambda: gateway.get("/status").json()["requests"], 60, "they are in hand")
        assert gateway.slide(_file(gateway, "good")).json()["status"] == "accepted"
        answers = [post.result() for post in posts]
        refused = gateway.slide(pipe)
    assert {(one.status_code, one.json()["error"]["code"]) for one in answers} == {
        (504, "slide-open-timeout")
    }
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "slide-unreadable")
    assert gateway.slide(held[0]).json()["status"] == "accepted"


def test_answers_reveal_nothing_outside_the_roots(gateways):
    gateway = gateways().start()
    outside, folder = gateway.home / "outside", gateway.folder
    (outside / "dicom").mkdir(parents=True)
    (outside / "there.svs").write_text("x")
    (outside / "way-in").symlink_to(folder)
    (outside / "circle").symlink_to(outside / "circle")
    inside = _file(gateway, "inside")
    for name in ("there.svs", "gone.svs", "dicom"):
        (folder / f"link-to-{name}").symlink_to(outside / name)
    (folder / "link").symlink_to(outside)
    tried = [
        *(
            outside / name
            for name in ("there.svs", "gone.svs", "dicom", "circle", "circle/x.svs", "there.svs/x")
        ),
        *(outside / way / inside.name for way in ("way-in", "no-way-in")),
        *(folder / f"link-to-{name}" for name in ("there.svs", "gone.svs", "dicom", "dicom/x.svs")),
        *(folder / "link" / name for name in ("there.svs", "gone.svs")),
        *(Path(path) for path in ("/etc/shadow", "/root/x.svs", "/proc/self/mem", "/proc/99999999/mem", "/")),
    ]
    uris = [path.as_uri() for path in tried]
    uris += [
        f"file://{folder}/{way}/outside/{name}"
        for way in ("..", "%2e%2e")
        for name in ("there.svs", "gone.svs")
    ]
    uris += [f"file://{folder}/link/../{name}" for name in ("outside/there.svs", "../outside/gone.svs")][1:]
    uris += ["s3://scans/a.svs", "s3://lab/b.svs"]
    answers = {uri: gateway.post("/slides", {"uri": uri}) for uri in uris}

    assert {(answer.status_code, answer.text) for answer in answers.values()} == {
        (403, answers[uris[0]].text)
    }
    assert answers[uris[0]].json()["error"]["code"] == "uri-outside-roots"
    assert gateway.slide(inside).status_code == 202
