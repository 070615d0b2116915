"""A real gateway with a certificate, named tokens and an issuer, and the commands that speak to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_process import GatewayProcess
from own_certificates import certified
from real_issuer import AUDIENCE, RealIssuer
from service_access import bearer

from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.errors import InvalidInputError
from histgen_lib.events import Event

SRE = "o" * 40


@pytest.fixture(scope="module")
def issuer() -> Iterator[RealIssuer]:
    running = RealIssuer()
    yield running
    running.close()


@pytest.fixture(scope="module")
def gateway(issuer: RealIssuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    home = tmp_path_factory.mktemp("door")
    certificate, key, _ = certified(home)
    tokens = home / "tokens.json"
    tokens.write_text(json.dumps({"sre": {"token": SRE, "scopes": ["operate"]}}))
    tokens.chmod(0o600)
    running = GatewayProcess(
        home,
        tls_cert=certificate,
        tls_key=key,
        tokens_file=tokens,
        oidc_issuer=issuer.url,
        oidc_audience=AUDIENCE,
    ).start()
    yield running
    running.kill()


def histgen(gateway: GatewayProcess, *arguments: str, token: str = SRE, **environment: str) -> Any:
    """Run a command that knows the gateway's URL, its authority and a token, and nothing else."""
    file = gateway.home / "client-token"
    file.write_text(token)
    file.chmod(0o600)
    known = {name: value for name, value in os.environ.items() if not name.startswith("HISTGEN_")}
    known |= {"HISTGEN_HOME": str(gateway.home / "nowhere"), "HISTGEN_TOKEN_FILE": str(file)}
    known |= {"HISTGEN_CA_FILE": str(gateway.home / "ca.crt")} | environment
    run = subprocess.run(
        [sys.executable, "-m", "histgen_lib.cli", *arguments, "--json"],
        env=known,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return run.returncode, json.loads(run.stdout)


def _given_up(gateway: GatewayProcess, name: str) -> str:
    """Submit a slide and have it given up; return its dead letter's name."""
    path = gateway.folder / f"{name}.svs"
    path.write_text(name)
    assert gateway.slide(path).status_code == 202
    stored = json.loads(gateway.store.get(f"slides/{name}/scanned.json"))
    reason = InvalidInputError("slide-no-tissue", "There is no tissue.", hint="Look at the slide.")
    letter = DeadLetter.of_event(Event.from_json(stored["event"]), reason, attempts=1, worker="tiler")
    gateway.store.put(letter.key, letter.to_bytes())
    return letter.event_id


def _audit(gateway: GatewayProcess) -> list[dict[str, Any]]:
    return [json.loads(gateway.store.get(info.key)) for info in gateway.store.list("audit/")]


def test_replay_through_the_gateway_needs_no_store_and_says_what_it_did(gateway: GatewayProcess):
    name = _given_up(gateway, "lost")
    at = ("--gateway", gateway.url)
    code, listed = histgen(gateway, "replay", "--code", "slide-no-tissue", "--dry-run", *at)
    assert (code, [one["event_id"] for one in listed["letters"]]) == (0, [name])
    code, done = histgen(gateway, "replay", name, *at)
    assert (code, done["letters"][0]["slide_id"]) == (0, "lost")
    assert done["letters"][0]["new_event_id"]
    code, nothing = histgen(gateway, "replay", name, *at)
    assert (code, nothing["letters"][0]["error"]["code"]) == (65, "object-missing")
    code, waiting = histgen(gateway, "replay", "--unfinished", "--dry-run", *at)
    assert (code, [one["slide_id"] for one in waiting["slides"]]) == (0, ["lost"])
    replayed = [entry for entry in _audit(gateway) if entry["action"] == "replayed"]
    assert [(entry["by"], entry["what"]["slide_id"]) for entry in replayed] == [("token:sre", "lost")]


def test_a_command_trusts_no_certificate_of_an_unknown_authority(gateway: GatewayProcess, tmp_path: Path):
    _, _, stranger = certified(tmp_path)
    for trusted in ("", str(stranger)):
        code, answer = histgen(gateway, "replay", "--all", "--gateway", gateway.url, HISTGEN_CA_FILE=trusted)
        assert (code, answer["error"]["code"]) == (78, "gateway-untrusted")
    other_name = gateway.url.replace("127.0.0.1", "127.0.0.2")
    code, answer = histgen(gateway, "replay", "--all", "--gateway", other_name)
    assert answer["error"]["code"] in ("gateway-unreachable", "gateway-untrusted")


def test_a_command_with_a_wrong_or_weak_token_says_so(gateway: GatewayProcess):
    path = gateway.folder / "weak.svs"
    path.write_text("weak")
    at = ("--gateway", gateway.url, "--store", f"file:{gateway.home}/store")
    code, answer = histgen(gateway, "submit", str(path), *at)
    assert (code, answer["error"]["code"]) == (65, "token-scope")
    code, answer = histgen(gateway, "submit", str(path), *at, token="w" * 40)
    assert (code, answer["error"]["code"]) == (78, "token-wrong")
    code, answer = histgen(gateway, "submit", str(path), *at, token=(gateway.home / "token").read_text())
    assert (code, answer["slides"][0]["status"]) == (0, "accepted")


def test_a_service_shows_its_settings_as_the_command_does(gateway: GatewayProcess):
    shown = gateway.get("/config").json()
    code, printed = histgen(gateway, "config", "show", "gateway", **gateway._environment)
    assert code == 0
    assert shown.keys() == printed.keys()
    differing = {name for name in shown if shown[name] != printed[name]}
    assert differing <= {"ca_file", "token_file"}, "the command here has its own"
    assert shown["port"] == {"value": 0, "from": "default"}
    assert SRE not in json.dumps(shown)


def test_tokens_of_the_issuer_open_what_their_scopes_say_and_name_who_came(
    gateway: GatewayProcess, issuer: RealIssuer
):
    path = gateway.folder / "by-oidc.svs"
    path.write_text("by-oidc")

    def post(token: str) -> tuple[int, str]:
        answer = gateway.post("/slides", {"uri": path.as_uri()}, headers=bearer(token))
        return answer.status_code, answer.json().get("error", {}).get("code", "")

    assert post(issuer.token(aud="other")) == (401, "token-wrong")
    assert post(issuer.token(exp=1)) == (401, "token-expired")
    assert post(issuer.token(scope=None)) == (403, "token-scope")
    assert post(issuer.token(sub="scanner-7")) == (202, "")
    assert _audit(gateway)[-1]["by"] == "oidc:scanner-7"
    log = gateway.log.read_text()
    assert not any(part in log for part in (SRE, issuer.token().split(".")[1], "Bearer ey"))


def test_nothing_but_the_open_pages_answers_without_a_token(gateway: GatewayProcess):
    with httpx.Client(verify=gateway.verify, base_url=gateway.url, timeout=30) as client:
        for page in ("/slides", "/s3-events", "/replay", "/status", "/config", "/", "/nothing", "/healthz/"):
            for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE"):
                assert client.request(method, page).status_code == 401, (method, page)
        metrics = client.get("/metrics").text
    assert client.is_closed
    assert 'histgen_http_requests_total{route="other",status="401",worker="gateway"}' in metrics
    assert "histgen_certificate_expiry_timestamp_seconds" in metrics
