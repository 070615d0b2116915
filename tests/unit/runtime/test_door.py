"""Without a valid token nothing but the open pages answers, and each token opens what its scopes say."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_access import TOKEN, bearer, locked
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from histgen_lib.runtime.board import Board
from histgen_lib.runtime.web import reread
from histgen_lib.runtime.web.address import PROBES, DoorSettings
from histgen_lib.runtime.web.callers import Callers, NamedTokens, OwnToken
from histgen_lib.runtime.web.door import RIGHT_FOR, Door, caller_of
from histgen_lib.runtime.web.rates import Buckets, peer_of
from histgen_lib.runtime.web.server import health_app
from histgen_lib.telemetry import metrics

OPEN = {*PROBES, "/metrics"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
STRANGE = (
    "/",
    "/nothing",
    "/status/",
    "//status",
    "/STATUS",
    "/healthz/",
    "/metrics/x",
    "/config%2f",
    "/../status",
)
LOST = {"authorization": ""}
UNLIMITED = DoorSettings(rate=0)


async def _ask(door: Door, *asked: tuple[str, str, Any]) -> list[httpx.Response]:
    transport = httpx.ASGITransport(door, client=("192.0.2.7", 9))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client:
        return [await client.request(method, path, headers=headers) for method, path, headers in asked]


def ask(door: Door, method: str, path: str, headers: Any = None) -> httpx.Response:
    return asyncio.run(_ask(door, (method, path, headers or {})))[0]


def code_of(answer: httpx.Response) -> str:
    return answer.json()["error"]["code"]


def worker(settings: DoorSettings = UNLIMITED) -> Door:
    return locked(health_app(Board("tiler")), settings)


def every_page() -> Starlette:
    """Make an application with all pages that there are, which names the caller it is told of."""

    async def page(request: Any) -> JSONResponse:
        found = caller_of(request.scope)
        return JSONResponse({"by": found and found.name})

    return Starlette(routes=[Route(path, page, methods=["GET", "POST"]) for path in RIGHT_FOR])


@pytest.mark.parametrize("open_pages", [{"probes", "metrics"}, {"probes"}, {"metrics"}, set()])
def test_without_a_token_every_path_but_the_open_ones_is_401_by_every_method(open_pages):
    door = worker(DoorSettings(open=frozenset(open_pages), rate=0))
    opened = {*(PROBES if "probes" in open_pages else ()), *(["/metrics"] if "metrics" in open_pages else [])}
    paths = [str(vars(route)["path"]) for route in health_app(Board("tiler")).routes]
    asked = [(method, path, LOST) for path in (*paths, *STRANGE) for method in METHODS]
    for (method, path, _), answer in zip(asked, asyncio.run(_ask(door, *asked)), strict=True):
        if path in opened:
            assert answer.status_code in (200, 405, 503), (method, path)
        else:
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["connection"] == "close"


def test_a_path_in_another_spelling_is_the_same_page_to_the_door_and_to_the_application():
    asked = ["/%73tatus", "/status?x=/healthz", "/status#/healthz", "/healthz%00", "/healthz;/status"]
    assert {ask(worker(), "GET", path).status_code for path in asked} == {401}
    assert ask(worker(), "GET", "/%73tatus", bearer()).json()["worker"] == "tiler"


def test_websockets_and_other_protocols_do_not_reach_the_application():
    sent: list[Any] = []

    async def connect(kind: str) -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        await worker()({"type": kind, "path": "/healthz", "headers": []}, None, send)

    for kind in ("websocket", "lifespan", "other"):
        asyncio.run(connect(kind))
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")],
        [("authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer x")],
        [("authorization", f"Bearer {TOKEN}, Bearer {TOKEN}")],
        [("authorization", f"Bearer {TOKEN} x")],
        [("authorization", f"Bearer{TOKEN}")],
        [("authorization", "Bearer ")],
        [("authorization", f"Bearer {TOKEN[:-1]}")],
        [("proxy-authorization", f"Bearer {TOKEN}")],
        [("cookie", f"authorization=Bearer {TOKEN}")],
        [("x-authorization", f"Bearer {TOKEN}")],
        [("authorization", "Bearer a.b.c")],
        [("authorization", b"Bearer \xff\xfe")],
    ],
)
def test_only_one_token_in_one_place_opens_anything(headers):
    answer = ask(worker(), "GET", "/status", headers)
    assert (answer.status_code, code_of(answer)) in [(401, "token-missing"), (401, "token-wrong")]
    assert TOKEN not in answer.text


def test_the_own_token_opens_everything_and_names_nobody():
    door = locked(every_page(), DoorSettings(open=frozenset(), rate=0))
    for path in RIGHT_FOR:
        assert ask(door, "POST", path, bearer()).json() == {"by": ""}
    answer = ask(door, "GET", "/nothing", bearer())
    assert (answer.status_code, code_of(answer)) == (404, "request-path")


def test_a_service_with_a_page_that_nobody_gave_a_right_to_does_not_start():
    for route in (
        Route("/new", lambda _: None),
        Route("/status/{id}", lambda _: None),
        Mount("/ui", Starlette()),
    ):
        with pytest.raises(LookupError):
            locked(Starlette(routes=[route]))


def tokens(path: Path, **known: Any) -> Path:
    path.write_text(json.dumps(known))
    path.chmod(0o600)
    return path


def named(path: Path, settings: DoorSettings | None = None) -> Door:
    callers = Callers([OwnToken(TOKEN), NamedTokens(path)])
    return Door(every_page(), callers, "named", settings or DoorSettings(open=frozenset(), rate=0))


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


SCANNER, SRE, VIEWER = ("s" * 40, "o" * 40, "v" * 40)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tokens(
        tmp_path / "tokens.json",
        scanner={"sha256": digest(SCANNER), "scopes": ["submit"]},
        sre={"token": SRE, "scopes": ["operate"]},
        viewer={"token": VIEWER, "scopes": ["read"]},
    )


@pytest.mark.parametrize(
    ("token", "name", "rights"),
    [
        (SCANNER, "token:scanner", {"submit"}),
        (SRE, "token:sre", {"operate", "read"}),
        (VIEWER, "token:viewer", {"read"}),
    ],
    ids=["scanner", "sre", "viewer"],
)
def test_a_named_token_opens_the_pages_of_its_scopes_and_no_others(file, token, name, rights):
    for path, right in RIGHT_FOR.items():
        answer = ask(named(file), "POST", path, bearer(token))
        if right in rights:
            assert answer.json() == {"by": name}
        else:
            assert (answer.status_code, code_of(answer)) == (403, "token-scope")
            challenge = f'Bearer error="insufficient_scope", scope="{right}"'
            assert answer.headers["www-authenticate"] == challenge


def test_tokens_are_changed_without_a_restart_and_a_mistake_changes_nothing(file, monkeypatch):
    monkeypatch.setattr(reread, "LOOK_S", 0.0)
    door = named(file)
    assert ask(door, "GET", "/status", bearer(VIEWER)).status_code == 200
    tokens(file, viewer={"token": "n" * 50, "scopes": ["read"]})
    assert ask(door, "GET", "/status", bearer(VIEWER)).status_code == 401
    assert ask(door, "GET", "/status", bearer("n" * 50)).status_code == 200
    for text in ("{", "[]", json.dumps({"viewer": {"token": "short", "scopes": ["read"]}})):
        file.write_text(text)
        assert ask(door, "GET", "/status", bearer("n" * 50)).status_code == 200
    file.unlink()
    assert ask(door, "GET", "/status", bearer("n" * 50)).status_code == 200


@pytest.mark.parametrize(
    "known",
    [
        {"a": {"token": "x" * 31, "scopes": ["read"]}},
        {"a": {"token": "x" * 32, "scopes": []}},
        {"a": {"token": "ключ" * 8, "scopes": ["read"]}},
        {"a": {"token": "x x" * 16, "scopes": ["read"]}},
        {"a": {"token": "x" * 32, "scopes": ["all"]}},
        {"a": {"token": "x" * 32, "scopes": "read"}},
        {"a": {"token": "x" * 32, "sha256": "0" * 64, "scopes": ["read"]}},
        {"a": {"scopes": ["read"]}},
        {"a": {"sha256": "A" * 64, "scopes": ["read"]}},
        {"a": {"token": "x" * 32, "scopes": ["read"], "until": 1}},
        {"a b": {"token": "x" * 32, "scopes": ["read"]}},
        {"a": {"token": "x" * 32, "scopes": ["read"]}, "b": {"token": "x" * 32, "scopes": ["read"]}},
        {"a": "x" * 32},
    ],
)
def test_a_file_of_tokens_with_a_mistake_is_refused_without_repeating_a_token(tmp_path, known):
    from histgen_lib.errors import FatalError

    with pytest.raises(FatalError) as caught:
        NamedTokens(tokens(tmp_path / "tokens.json", **known))
    assert caught.value.code == "tokens-invalid"
    assert "xxx" not in str(caught.value)


def test_a_name_that_appears_twice_is_refused(tmp_path):
    from histgen_lib.errors import FatalError

    one = json.dumps({"token": "x" * 32, "scopes": ["read"]})
    path = tmp_path / "tokens.json"
    path.write_text(f'{{"a": {one}, "a": {one.replace("x", "y")}}}')
    path.chmod(0o600)
    with pytest.raises(FatalError):
        NamedTokens(path)
    path.chmod(0o644)
    with pytest.raises(FatalError) as caught:
        NamedTokens(path)
    assert caught.value.code == "secret-exposed"


def test_each_caller_has_its_own_rate_and_is_told_when_to_come_again(file):
    door = named(file, DoorSettings(open=frozenset(), rate=0.1, burst=2))
    one = [ask(door, "GET", "/status", bearer(VIEWER)) for _ in range(3)]
    assert [answer.status_code for answer in one] == [200, 200, 429]
    assert (code_of(one[2]), one[2].headers["retry-after"]) == ("request-rate", "10")
    assert ask(door, "GET", "/status", bearer(SRE)).status_code == 200
    assert _value("histgen_http_limited_total", worker="named", why="requests") == 1


def test_wrong_tokens_are_answered_seldom_and_lock_out_no_good_one_from_the_same_address(file):
    door = named(file, DoorSettings(open=frozenset({"probes"}), rate=0.001, burst=20))
    wrong = [ask(door, "GET", "/status", bearer(f"{n}" * 40)).status_code for n in range(5)]
    assert wrong == [401, 401, 429, 429, 429]
    assert ask(door, "GET", "/status", LOST).status_code == 401, "nothing was guessed"
    assert ask(door, "GET", "/status", bearer(VIEWER)).status_code == 200
    assert ask(door, "GET", "/healthz").status_code == 200
    assert _value("histgen_http_limited_total", worker="named", why="failures") >= 3


def test_probes_have_no_limit_and_open_metrics_have_one():
    door = worker(DoorSettings(rate=0.001, burst=3))
    assert {ask(door, "GET", "/healthz").status_code for _ in range(20)} == {200}
    assert [ask(door, "GET", "/metrics").status_code for _ in range(4)] == [200, 200, 200, 429]


def test_a_bucket_refills_and_the_number_of_buckets_is_bounded():
    now = [0.0]
    buckets = Buckets(2.0, 3, most=100, clock=lambda: now[0])
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    now[0] = 0.5
    assert [buckets.take("a"), buckets.take("a")] == [0.0, 0.5]
    now[0] = 1000.0
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    for number in range(10_000):
        buckets.take(f"caller {number}")
    assert len(buckets._left) == 100


def test_all_addresses_of_an_ipv6_network_share_a_bucket():
    assert peer_of("2001:db8::1") == peer_of("2001:db8::ffff") != peer_of("2001:db8:0:1::1")
    assert peer_of("::ffff:192.0.2.7") == peer_of("192.0.2.7") == "192.0.2.7"
    assert peer_of("fe80::1%eth0") == "fe80::/64"


def _value(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize(
    "status", [200, 202, 400, 401, 403, 404, 405, 409, 413, 422, 429, 431, 500, 503, 504]
)
def test_every_status_that_a_service_may_answer_is_counted_from_0(status):
    worker()
    labels = {"worker": "test", "route": "/status", "status": str(status)}

    assert metrics.REGISTRY.get_sample_value("histgen_http_requests_total", labels) is not None


def test_answers_are_counted_by_page_and_status_and_unknown_paths_together():
    door = worker()
    counted = door.counted(door)

    async def asking() -> None:
        transport = httpx.ASGITransport(counted)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client:
            for path in ("/status", "/status", "/patient-7", "/patient-8"):
                await client.get(path)

    before = {
        route: _value("histgen_http_requests_total", worker="test", route=route, status="401")
        for route in ("/status", "other")
    }
    asyncio.run(asking())
    after = {
        route: _value("histgen_http_requests_total", worker="test", route=route, status="401")
        for route in ("/status", "other")
    }
    assert {route: after[route] - before[route] for route in before} == {"/status": 2, "other": 2}
    assert "patient-7" not in metrics.exposition()[0].decode()
