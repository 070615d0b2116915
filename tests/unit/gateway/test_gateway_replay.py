"""POST /replay and GET /config, and who may ask for what."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from gateway_client import Client, error_of
from gateway_fakes import GatewayLab
from notification_bodies import SECRETS
from service_access import bearer, locked

from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.errors import InvalidInputError
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.web.address import DoorSettings
from histgen_lib.runtime.web.callers import Callers, NamedTokens
from histgen_lib.runtime.web.door import RIGHT_FOR, Door
from histgen_lib.runtime.web.server import health_app


def _letter(client: Client, lab: GatewayLab, name: str, code: str = "slide-no-tissue") -> DeadLetter:
    """Have a slide announced and given up."""
    assert client.slide(lab.file(f"{name}.svs", name.encode()).as_uri()).status_code == 202
    reason = InvalidInputError(code, "It cannot be done.", hint="Look at the slide.")
    letter = DeadLetter.of_event(lab.bus.scanned[-1], reason, attempts=1, worker="tiler")
    lab.store.put(letter.key, letter.to_bytes())
    return letter


def test_dead_letters_are_listed_and_replayed_and_the_audit_log_says_by_whom(client: Client, lab: GatewayLab):
    first, second = _letter(client, lab, "a"), _letter(client, lab, "b", "slide-missing")
    announced = len(lab.bus.scanned)
    listed = client.post("/replay", {"code": "slide-missing", "dry_run": True}).json()
    assert listed["dry_run"] is True
    assert [(one["slide_id"], one["code"], one["error"]) for one in listed["letters"]] == [
        ("b", "slide-missing", None)
    ]
    assert (len(lab.bus.scanned), second.key in lab.store.kept) == (announced, True)

    done = client.post("/replay", {"code": "slide-missing"}).json()["letters"]
    assert [one["new_event_id"] for one in done] == [lab.bus.scanned[-1].name]
    assert second.key not in lab.store.kept
    assert first.key in lab.store.kept
    assert client.touched == ["b"]
    named = [entry for entry in _audited(lab) if entry["action"] == "replayed"]
    assert [(entry["what"]["slide_id"], entry["by"]) for entry in named] == [("b", "127.0.0.1")]

    done = client.post("/replay", {"letters": [first.event_id, "0" * 32]}).json()["letters"]
    assert [one["error"] and one["error"]["code"] for one in done] == [None, "object-missing"]
    assert client.post("/replay", {"all": True}).json()["letters"] == []


def test_unfinished_slides_are_announced_again_and_drafted_ones_are_not(client: Client, lab: GatewayLab):
    client.slide(lab.file("a.svs").as_uri())
    _letter(client, lab, "b")
    announced = len(lab.bus.scanned)
    assert [
        one["slide_id"]
        for one in client.post("/replay", {"unfinished": True, "dry_run": True}).json()["slides"]
    ] == ["a"]
    assert len(lab.bus.scanned) == announced
    assert [one["slide_id"] for one in client.post("/replay", {"unfinished": True}).json()["slides"]] == ["a"]
    assert [event.key for event in lab.bus.scanned[announced:]] == ["a"]
    assert _audited(lab)[-1]["action"] == "announced-again"


def _audited(lab: GatewayLab) -> list[dict[str, Any]]:
    return [json.loads(data) for key, data in sorted(lab.store.kept.items()) if key.startswith("audit/")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", (400, "request-unreadable")),
        ({}, (422, "replay-unstated")),
        ({"code": "slide-missing", "all": True}, (422, "replay-contradictory")),
        ({"unfinished": True, "letters": ["a"]}, (422, "replay-contradictory")),
        ({"letters": []}, (422, "request-invalid")),
        ({"letters": "a"}, (422, "request-invalid")),
        ({"code": ""}, (422, "request-invalid")),
        ({"all": 1}, (422, "request-invalid")),
        ({"all": True, "patient": SECRETS[0]}, (422, "request-invalid")),
    ],
)
def test_a_replay_that_is_not_clear_is_refused(client: Client, lab: GatewayLab, body, expected):
    letter = _letter(client, lab, "a")
    answer = client.post("/replay", body)
    assert error_of(answer) == expected
    assert SECRETS[0] not in answer.text
    assert letter.key in lab.store.kept


def test_a_replay_while_the_broker_is_away_loses_no_letter(client: Client, lab: GatewayLab):
    letter = _letter(client, lab, "a")
    lab.bus.away = True
    answer = client.post("/replay", {"all": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "bus-unavailable")
    assert letter.key in lab.store.kept


def test_the_settings_in_force_are_shown(lab: GatewayLab):
    shown = {"port": {"value": 8080, "from": "HISTGEN_PORT"}}
    client = Client(lab, config=shown)
    assert asyncio.run(client.send("GET", "/config")).json() == shown


def test_a_named_caller_is_in_the_audit_log_and_no_token_is(lab: GatewayLab, tmp_path):
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"scanner-1": {"token": "s" * 40, "scopes": ["submit"]}}))
    tokens.chmod(0o600)
    client = Client(lab)
    client.door = Door(client.api.app(), Callers([NamedTokens(tokens)]), "gateway")
    uri = lab.file("a.svs").as_uri()
    assert client.post("/slides", {"uri": uri}, headers=bearer("s" * 40)).status_code == 202
    assert _audited(lab)[-1]["by"] == "token:scanner-1"
    assert not any(b"s" * 40 in data for data in lab.store.kept.values())
    answer = client.post("/replay", {"all": True}, headers=bearer("s" * 40))
    assert error_of(answer) == (403, "token-scope")


def test_every_page_of_every_service_has_a_right_and_is_shut_without_a_token(client: Client):
    """The pages are those of the applications' own routing tables."""
    for app in (client.api.app(), health_app(Board("tiler"))):
        client.door = locked(app, DoorSettings(rate=0))
        paths = [str(vars(route)["path"]) for route in app.routes]
        assert set(paths) <= set(RIGHT_FOR)
        for path in set(paths) - {"/healthz", "/readyz", "/metrics"}:
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
                answer = asyncio.run(client.send(method, path, headers={"authorization": ""}))
                assert answer.status_code == 401, (method, path)
