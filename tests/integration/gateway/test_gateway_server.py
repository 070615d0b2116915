"""The gateway's HTTP server over a real port: one process for all of these tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gateway_process import GatewayProcess, Listener
from slow_bucket import SlowBucket, content_of
from waiting import until

from histgen_lib.events import Event
from histgen_lib.files import sha256_file, sha256_hex
from histgen_lib.names import safe_name


@pytest.fixture(scope="module")
def bucket(s3_credentials: None) -> Iterator[SlowBucket]:
    server = SlowBucket()
    yield server
    server.close()


@pytest.fixture(scope="module")
def gateway(bucket: SlowBucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    running = _gateway(tmp_path_factory.mktemp("gateway"), bucket).start()
    yield running
    running.kill()


def _gateway(home: Path, bucket: SlowBucket) -> GatewayProcess:
    roots = f"{home}/scans,s3://slow"
    return GatewayProcess(home, roots=roots, store_endpoint=bucket.endpoint, store_region="us-east-1")


@pytest.fixture(scope="module")
def heard(gateway: GatewayProcess) -> Iterator[Listener]:
    listener = Listener(gateway.bus)
    yield listener
    listener.close()


def test_a_posted_slide_is_accepted_announced_and_recorded(gateway: GatewayProcess, heard: Listener):
    path, slide_id = gateway.folder / "Präparat 1.svs", safe_name("Präparat 1")
    path.write_text("pixels")
    answer = gateway.slide(path, mpp=0.25)
    assert answer.status_code == 202
    event = until(lambda: {event.key: event for event in heard.hear()}.get(slide_id), 60, "the event")
    assert answer.json() == {"slide_id": slide_id, "event_id": event.id, "status": "accepted"}
    assert event.data.content_id == sha256_file(path)
    stored = json.loads(gateway.store.get(f"slides/{slide_id}/scanned.json"))
    assert Event.from_json(stored["event"]) == event


def test_other_requests_are_answered_while_slides_are_read(gateway: GatewayProcess, bucket: SlowBucket):
    bucket.go_on.clear()
    small = gateway.folder / "small.svs"
    small.write_text("small")
    with ThreadPoolExecutor(3) as pool:
        slow = [pool.submit(gateway.post, "/slides", {"uri": f"s3://slow/{n}.svs"}) for n in range(3)]
        until(lambda: gateway.get("/status").json()["requests"] == 3, 60, "three slides are being read")
        assert gateway.slide(small).json()["status"] == "accepted"
        assert gateway.get("/healthz").json() == {"live": True}
        assert not any(answer.done() for answer in slow)
        bucket.go_on.set()
        assert [answer.result().json()["status"] for answer in slow] == ["accepted"] * 3


def test_an_endless_body_is_cut_off(gateway: GatewayProcess):
    def endless():
        while True:
            yield b"a" * 65536

    for headers in ({}, {"origin": "http://evil.example"}):
        try:
            answer = httpx.post(
                gateway.url + "/slides", content=endless(), headers=gateway.key | headers, timeout=30
            )
        except httpx.TransportError:  # the server hangs up while the client is still sending
            answer = None
        assert answer is None or answer.status_code in (403, 413)
    assert gateway.get("/healthz").status_code == 200


def test_refusals_have_a_code_and_a_hint(gateway: GatewayProcess):
    outside = gateway.home / "secret.svs"
    outside.write_text("secret")
    (gateway.folder / "link.svs").symlink_to(outside)
    answers = {
        "request-unreadable": httpx.post(f"{gateway.url}/slides", content=b"{", headers=gateway.key),
        "request-invalid": gateway.slide(outside, patient="Erika Mustermann"),
        "uri-outside-roots": gateway.slide(gateway.folder / "link.svs"),
        "slide-missing": gateway.slide(gateway.folder / "gone.svs"),
        "request-path": gateway.get("/nothing"),
    }
    assert {answer.json()["error"]["code"]: answer.status_code for answer in answers.values()} == {
        "request-unreadable": 400,
        "request-invalid": 422,
        "uri-outside-roots": 403,
        "slide-missing": 404,
        "request-path": 404,
    }
    climbing = f"file://{gateway.folder}/../secret.svs"
    assert gateway.post("/slides", {"uri": climbing}).status_code == 403
    assert "Mustermann" not in answers["request-invalid"].text + gateway.log.read_text()


def test_the_log_is_json_and_the_metrics_count(gateway: GatewayProcess):
    path = gateway.folder / "counted.svs"
    path.write_text("counted")
    for _ in range(2):
        gateway.slide(path)
    text = gateway.get("/metrics").text
    assert 'histgen_slides_seen_total{via="http"}' in text
    assert "histgen_slides_duplicate_total 1.0" in text
    assert all(line["service"] == "gateway" for line in gateway.lines())


def test_on_sigterm_the_request_in_hand_is_answered(tmp_path: Path, bucket: SlowBucket):
    gateway = _gateway(tmp_path, bucket).start()
    heard = Listener(gateway.bus)
    bucket.go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(gateway.post, "/slides", {"uri": "s3://slow/a.svs"})
        until(lambda: gateway.get("/status").json()["requests"] == 1, 60, "it is being read")
        gateway.terminate()
        until(lambda: gateway.get("/status").json()["phase"] == "stopping", 60, "it is stopping")
        other = gateway.post("/slides", {"uri": "s3://slow/b.svs"}).json()
        bucket.go_on.set()
        assert answer.result().json()["status"] == "accepted"
    assert other["error"]["code"] == "gateway-busy"
    assert gateway.wait() == 0
    (event,) = heard.until_heard(1)
    assert event.data.content_id == sha256_hex(content_of("/slow/a.svs"))
    assert list((gateway.home / "run").rglob("*.json")) == []
    heard.close()
