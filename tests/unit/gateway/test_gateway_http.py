"""POST /slides and POST /s3-events give clear answers, repeat no value and block nobody."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import httpx
import pytest
from gateway_client import JSON, Client, error_of
from gateway_fakes import GatewayLab
from hypothesis import given, settings
from hypothesis import strategies as st
from notification_bodies import SECRETS, TEST_EVENT, amazon, record
from service_access import TOKEN, bearer

from histgen_lib.access.places import Roots
from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.errors import FatalError, InvalidInputError
from services.gateway.submission import read_submission


def test_a_slide_is_accepted_then_a_duplicate_then_a_rescan(client: Client, lab: GatewayLab):
    uri = lab.file("a.svs", b"one").as_uri()
    first = client.slide(uri, mpp=0.25, case={"id": "C1", "slides": ["a", "b"]})
    assert first.status_code == 202
    assert first.json() == {"slide_id": "a", "event_id": lab.bus.scanned[0].id, "status": "accepted"}
    assert client.slide(uri).json() == first.json() | {"status": "duplicate"}
    lab.file("a.svs", b"two")
    assert client.slide(uri).json()["status"] == "rescan"


def test_whole_numbers_and_nulls_are_accepted(client: Client, lab: GatewayLab):
    answer = client.slide(lab.file("a.svs").as_uri(), mpp=1, slide_id=None, case=None)
    assert answer.status_code == 202
    assert lab.bus.scanned[0].data.mpp == 1.0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "request-unreadable")),
        (b"{", (400, "request-unreadable")),
        (b"[]", (400, "request-unreadable")),
        (b"null", (400, "request-unreadable")),
        (b"\xff", (400, "request-unreadable")),
        (b"[" * 60_000, (400, "request-unreadable")),
        (b'{"uri": "file:///a.svs", "mpp": NaN}', (400, "request-unreadable")),
        ({}, (422, "request-invalid")),
        ({"uri": 1}, (422, "request-invalid")),
        ({"uri": ""}, (422, "request-invalid")),
        ({"uri": "file:///a.svs", "mpp": "0.25"}, (422, "request-invalid")),
        ({"uri": "file:///a.svs", "mpp": True}, (422, "request-invalid")),
        ({"uri": "file:///a.svs", "case": "C1"}, (422, "request-invalid")),
        ({"uri": "file:///a.svs", "case": {"id": "C1"}}, (422, "request-invalid")),
        ({"uri": "file:///a.svs", "case": {"id": "C1", "slides": []}}, (422, "request-invalid")),
        ({"uri": "file:///a.svs", "case": {"id": "C1", "slides": ["a"], "x": 1}}, (422, "request-invalid")),
        ({"uri": "a.svs"}, (422, "uri-invalid")),
        ({"uri": "file:///etc/passwd"}, (403, "uri-outside-roots")),
        ({"uri": "s3://private/a.svs"}, (403, "uri-outside-roots")),
        ({"uri": "s3://lab/gone.svs"}, (404, "slide-missing")),
        ({"uri": "s3://lab/m.mrxs"}, (422, "slide-in-parts")),
        ({"uri": "s3://lab/a.svs", "slide_id": "a/b"}, (422, "slide-id-invalid")),
        ({"uri": "s3://lab/a.svs", "mpp": 50}, (422, "slide-mpp-implausible")),
        ({"uri": "s3://lab/a.svs", "case": {"id": "C", "slides": ["b"]}}, (422, "case-invalid")),
        ({"uri": "s3://lab/\ud800.svs"}, (400, "request-unreadable")),
    ],
)
def test_refusals_have_a_code_and_a_hint_and_leave_nothing(client: Client, lab: GatewayLab, body, expected):
    lab.object("lab", "a.svs")
    assert error_of(client.post("/slides", body)) == expected
    assert lab.bus.published == []
    assert lab.store.kept == {}


def test_unknown_and_wrong_fields_are_named_and_their_values_never_repeated(client: Client, lab: GatewayLab):
    answer = client.slide(
        lab.file("a.svs").as_uri(), patient=SECRETS[0], mpp=SECRETS[3], **{SECRETS[0]: 1, "slide_id": 5}
    )
    assert error_of(answer) == (422, "request-invalid")
    assert "patient is not a known field" in answer.text
    assert "mpp has the wrong type" in answer.text
    assert not any(secret in answer.text for secret in SECRETS)


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from(["uri", "slide_id", "mpp", "case", "x"]),
        st.none()
        | st.booleans()
        | st.floats()
        | st.text(max_size=20)
        | st.lists(st.text(max_size=5), max_size=2),
        max_size=5,
    )
)
def test_any_body_is_read_or_refused(body: dict[str, Any]):
    code = ""
    try:
        read_submission(json.dumps(body).encode())
    except InvalidInputError as error:
        code = error.code
    assert code in ("", "request-unreadable", "request-invalid", "uri-invalid")


@pytest.mark.parametrize(
    "body",
    [
        b'{"uri": "file:///scans/a.svs", "uri": "file:///scans/b.svs"}',
        b'{"uri": "file:///scans/a.svs", "mpp": 0.25, "mpp": 0.5}',
        b'{"uri": "file:///scans/a.svs", "case": {"id": "C", "id": "D", "slides": ["a"]}}',
    ],
)
def test_a_field_that_is_named_twice_is_refused(body: bytes):
    with pytest.raises(InvalidInputError) as caught:
        read_submission(body)
    assert caught.value.code == "request-unreadable"


def test_a_body_that_is_too_long_is_refused_with_or_without_content_length(client: Client):
    long = b'{"uri": "' + b"a" * 70_000 + b'"}'
    assert error_of(client.post("/slides", long)) == (413, "request-too-large")
    assert error_of(client.post("/slides", b"{}", headers={"content-length": "many"})) == (
        413,
        "request-too-large",
    )

    async def pieces():
        for _ in range(100):
            yield b"a" * 1000

    answer = asyncio.run(client.send("POST", "/slides", content=pieces(), headers=JSON))
    assert error_of(answer) == (413, "request-too-large")
    assert error_of(client.post("/s3-events", b" " * (1 << 21))) == (413, "request-too-large")


def test_unknown_pages_and_unsupported_methods_are_refused(client: Client):
    assert error_of(asyncio.run(client.send("GET", "/nothing"))) == (404, "request-path")
    assert error_of(asyncio.run(client.send("GET", "/slides"))) == (405, "request-method")


def test_web_pages_may_not_submit_slides(client: Client, lab: GatewayLab):
    uri = lab.file("a.svs").as_uri()
    answer = client.post("/slides", {"uri": uri}, headers={"origin": "http://evil.example"})
    assert error_of(answer) == (403, "request-origin")
    assert lab.bus.published == []


def test_a_taken_id_is_a_conflict_that_names_the_dead_letter(client: Client, lab: GatewayLab):
    client.slide(lab.file("one/a.svs", b"one").as_uri())
    answer = client.slide(lab.file("two/a.svs", b"two").as_uri())
    assert error_of(answer) == (409, "slide-id-taken")
    assert answer.json()["dead_letter"] in lab.store.kept


def test_a_slide_given_up_before_is_a_conflict_with_its_code(client: Client, lab: GatewayLab):
    uri = lab.file("a.svs").as_uri()
    client.slide(uri)
    reason = InvalidInputError("slide-no-tissue", "There is no tissue.", hint="Look at the slide.")
    letter = DeadLetter.of_event(lab.bus.scanned[0], reason, attempts=1, worker="tiler")
    lab.store.put(letter.key, letter.to_bytes())
    answer = client.slide(uri)
    assert error_of(answer) == (409, "slide-no-tissue")
    assert "histgen replay" in answer.json()["error"]["hint"]


@pytest.mark.parametrize(("what", "code"), [("bus", "bus-unavailable"), ("store", "storage-unavailable")])
def test_an_outage_is_answered_with_503_and_nothing_is_lost(
    client: Client, lab: GatewayLab, what: str, code: str
):
    uri = lab.file("a.svs").as_uri()
    getattr(lab, what).away = True
    answer = client.slide(uri)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, code)
    assert int(answer.headers["retry-after"]) > 0
    getattr(lab, what).away = False
    assert client.slide(uri).json()["status"] == "accepted"


def test_an_unexpected_error_reveals_nothing(client: Client, lab: GatewayLab, monkeypatch):
    def fails(*_):
        raise RuntimeError(SECRETS[0])

    monkeypatch.setattr(lab.intake, "submit", fails)
    answer = client.slide(lab.file("a.svs").as_uri())
    assert error_of(answer) == (500, "internal-error")
    assert SECRETS[0] not in answer.text


def test_a_fatal_error_stops_the_service(client: Client, lab: GatewayLab, monkeypatch: pytest.MonkeyPatch):
    def denied(*_):
        raise FatalError("storage-denied", "No.", hint="Mend it.")

    monkeypatch.setattr(lab.intake, "submit", denied)
    assert error_of(client.slide(lab.file("a.svs").as_uri())) == (503, "storage-denied")
    assert client.stop.requested
    assert [failure.code for failure in client.stop.failures] == ["storage-denied"]


def test_large_slides_block_nobody_and_excess_requests_get_503(lab: GatewayLab):
    """Two threads read two endless slides; requests that are small or need no thread are answered."""
    go_on = threading.Event()
    for name in ("big-1", "big-2"):
        lab.object(name, "a.svs")
        lab.buckets[name].on_read = lambda: go_on.wait(30)
    lab.restarted(Roots((lab.folder,), ("big-1/", "big-2/")))
    client = Client(lab, threads=3, most_waiting=0)
    small = lab.file("small.svs", b"small").as_uri()

    async def all_at_once() -> list[httpx.Response]:
        def slide(uri: str):
            return client.send("POST", "/slides", json={"uri": uri})

        big = [asyncio.ensure_future(slide(f"s3://big-{n}/a.svs")) for n in (1, 2)]
        while client.board.requests < 2:
            await asyncio.sleep(0)
        answers = [await slide(small), await client.send("GET", "/healthz")]
        third = asyncio.ensure_future(slide("s3://big-1/b.svs"))
        lab.object("big-1", "b.svs")
        while client.board.requests < 3:
            await asyncio.sleep(0)
        answers.append(await slide(small))
        go_on.set()
        return [*answers, *await asyncio.gather(*big, third)]

    first, health, sent_away, *rest = asyncio.run(all_at_once())
    assert first.json()["status"] == "accepted"
    assert health.status_code == 200
    assert (sent_away.status_code, sent_away.json()["error"]["code"]) == (503, "gateway-busy")
    assert [answer.status_code for answer in rest] == [202, 202, 202]


def test_after_a_stop_no_new_work_starts(client: Client, lab: GatewayLab):
    client.stop.request()
    answer = client.slide(lab.file("a.svs").as_uri())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "gateway-busy")


def test_bucket_notifications_are_taken_by_http(client: Client, lab: GatewayLab):
    lab.object("lab", "a.svs")
    answer = client.post("/s3-events", amazon(record("lab", "a.svs"), record("lab", "gone.svs")))
    assert answer.status_code == 202
    taken, gone = answer.json()["slides"]
    assert (taken["uri"], taken["slide_id"], taken["status"]) == ("s3://lab/a.svs", "a", "accepted")
    assert (gone["uri"], gone["error"]["code"]) == ("s3://lab/gone.svs", "slide-missing")
    assert [event.data.code for event in lab.bus.letters] == ["slide-missing"]
    assert client.post("/s3-events", TEST_EVENT).json() == {"slides": []}


def test_an_invalid_notification_is_refused_and_leaves_nothing(client: Client, lab: GatewayLab):
    assert error_of(client.post("/s3-events", b"{}")) == (400, "notification-unreadable")
    assert lab.store.kept == {}


def test_the_gateway_serves_the_pages_of_every_service(client: Client):
    pages = {
        page: asyncio.run(client.send("GET", page)) for page in ("/metrics", "/healthz", "/readyz", "/status")
    }
    assert pages["/healthz"].json() == {"live": True}
    assert pages["/status"].json()["worker"] == "gateway"
    assert "histgen_slides_seen_total" in pages["/metrics"].text


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({"authorization": ""}, "token-missing"),
        ({"authorization": "Bearer"}, "token-missing"),
        ({"authorization": "Bearer "}, "token-missing"),
        ({"authorization": f"Basic {TOKEN}"}, "token-missing"),
        ({"authorization": TOKEN}, "token-missing"),
        ({"x-token": TOKEN, "authorization": ""}, "token-missing"),
        (bearer(TOKEN[:-1]), "token-wrong"),
        (bearer(TOKEN + "0"), "token-wrong"),
        (bearer(TOKEN.upper()), "token-wrong"),
        ({"authorization": b"Bearer \xff\xfe"}, "token-wrong"),
    ],
)
@pytest.mark.parametrize("door", ["POST /slides", "POST /s3-events", "GET /status"])
def test_without_the_token_nobody_sees_or_submits_slides(client: Client, lab: GatewayLab, door, sent, code):
    method, path = door.split()
    body = json.dumps({"uri": lab.file("a.svs").as_uri()})
    answer = asyncio.run(client.send(method, path, headers=JSON | sent, content=body))

    assert error_of(answer) == (401, code)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in answer.text
    assert lab.bus.published == []
    assert lab.store.kept == {}


def test_without_the_token_the_body_is_not_read(client: Client):
    async def pieces():
        raise AssertionError("it is read")
        yield b""

    headers = JSON | {"authorization": ""}
    answer = asyncio.run(client.send("POST", "/slides", content=pieces(), headers=headers))
    assert error_of(answer) == (401, "token-missing")


def test_monitoring_pages_need_no_token_and_name_no_slide(client: Client, lab: GatewayLab):
    assert client.slide(lab.file("patient-7.svs").as_uri()).status_code == 202
    for page in ("/metrics", "/healthz", "/readyz"):
        answer = asyncio.run(client.send("GET", page, headers={"authorization": ""}))
        assert answer.status_code in (200, 503)
        assert "patient-7" not in answer.text


def test_the_scheme_name_ignores_case(client: Client, lab: GatewayLab):
    answer = client.post(
        "/slides", {"uri": lab.file("a.svs").as_uri()}, headers={"authorization": f"bEARER  {TOKEN} "}
    )
    assert answer.status_code == 202
