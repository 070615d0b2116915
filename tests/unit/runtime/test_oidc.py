"""Tokens of a real issuer, with real keys: good ones open what their scopes say, others nothing."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from real_issuer import AUDIENCE, EC, RSA, RSA_NEXT, RealIssuer, published
from service_access import TOKEN
from waiting import until

from histgen_lib.errors import FatalError, HistgenError
from histgen_lib.runtime.web import oidc
from histgen_lib.runtime.web.address import IssuerSettings
from histgen_lib.runtime.web.callers import Callers, OwnToken
from histgen_lib.runtime.web.oidc import MOST_WAITING, PAUSE_S, STALE_S, Issuer, is_trusted


@pytest.fixture
def real() -> Iterator[RealIssuer]:
    issuer = RealIssuer()
    yield issuer
    issuer.close()


class Lab:
    """Asks an `Issuer` for the owners of tokens, one after the other. `now`: its clock."""

    def __init__(self, real: RealIssuer, **settings: Any) -> None:
        self.now = 0.0
        told = replace(IssuerSettings(real.url, AUDIENCE), **settings)
        self.callers = Callers([OwnToken(TOKEN), Issuer(told, clock=lambda: self.now)])
        self._runner = asyncio.Runner()

    def ask(self, token: str) -> str:
        """Return name and scopes of a token's owner, or the code of the refusal."""
        try:
            found = self._runner.run(self.callers.find([f"Bearer {token}".encode()]))
        except HistgenError as error:
            return "token repeated" if token[:20] in str(error) else error.code
        return " ".join([found.name, *sorted(found.rights)])

    def at_once(self, tokens: list[str]) -> list[str]:
        """Ask for all at the same time."""

        async def asking() -> list[Any]:
            asked = (self.callers.find([f"Bearer {token}".encode()]) for token in tokens)
            return await asyncio.gather(*asked, return_exceptions=True)

        return [getattr(found, "name", "") or found.code for found in self._runner.run(asking())]

    def at_first(self, token: str) -> str:
        """Return the code of a refusal that comes before anything is waited for, else "waits"."""

        async def step() -> str:
            asking = self.callers.find([f"Bearer {token}".encode()])
            try:
                asking.send(None)
            except HistgenError as error:
                return error.code
            finally:
                asking.close()
            return "waits"

        return self._runner.run(step())

    def close(self) -> None:
        self._runner.close()


@pytest.fixture
def lab(real: RealIssuer) -> Iterator[Lab]:
    made = Lab(real)
    yield made
    made.close()


def test_a_token_of_the_issuer_opens_what_its_scopes_say(real, lab):
    assert lab.ask(real.token()) == "oidc:scanner submit"
    assert lab.ask(real.token("ec-1", scope="openid read unknown")) == "oidc:scanner read"
    assert lab.ask(real.token(scope=["operate"], aud=["other", AUDIENCE])) == "oidc:scanner operate read"
    assert lab.ask(TOKEN) == " operate read submit"


@pytest.mark.parametrize(
    "scope", [None, "", "openid", [], {"submit": True}, 7, [["submit"]], "SUBMIT", "submit,read"]
)
def test_without_a_scope_of_ours_a_token_opens_nothing(real, lab, scope):
    assert lab.ask(real.token(scope=scope)) == "oidc:scanner"


def _unsigned(real: RealIssuer, **header: Any) -> str:
    payload = real.token().split(".")[1]
    head = base64.urlsafe_b64encode(json.dumps({"kid": "rsa-1", **header}).encode()).rstrip(b"=").decode()
    return f"{head}.{payload}."


def _with_public_key_as_secret(real: RealIssuer) -> str:
    """Sign with what everybody knows: the classic confusion of RS256 and HS256."""
    public = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    import hashlib
    import hmac

    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"rsa-1"}').rstrip(b"=").decode()
    signed = f"{head}.{real.token().split('.')[1]}"
    mac = hmac.new(public, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


NOW = int(time.time())
FORGED = {
    "expired": (lambda real: real.token(exp=NOW - 60), "token-expired"),
    "not yet": (lambda real: real.token(nbf=NOW + 3600), "token-wrong"),
    "without an end": (lambda real: real.token(exp=None), "token-wrong"),
    "another audience": (lambda real: real.token(aud="other"), "token-wrong"),
    "no audience": (lambda real: real.token(aud=None), "token-wrong"),
    "another issuer": (lambda real: real.token(iss="https://evil.example"), "token-wrong"),
    "another realm": (lambda real: real.token(iss=real.url + "/"), "token-wrong"),
    "nobody": (lambda real: real.token(sub=None), "token-wrong"),
    "alg none": (lambda real: _unsigned(real, alg="none"), "token-wrong"),
    "alg None": (lambda real: _unsigned(real, alg="None"), "token-wrong"),
    "no alg": (_unsigned, "token-wrong"),
    "no signature": (lambda real: _unsigned(real, alg="RS256"), "token-wrong"),
    "HS256 with the public key": (_with_public_key_as_secret, "token-wrong"),
    "unknown kid": (lambda real: real.token("rsa-2", key=RSA_NEXT), "token-wrong"),
    "known kid, another key": (lambda real: real.token("rsa-1", key=RSA_NEXT), "token-wrong"),
    "known kid, another kind of key": (
        lambda real: real.token("rsa-1", key=EC, algorithm="ES256"),
        "token-wrong",
    ),
    "kid is a list": (lambda real: _unsigned(real, alg="RS256", kid=["rsa-1"]), "token-wrong"),
    "claims changed": (lambda real: _changed(real.token()), "token-wrong"),
    "no JSON": (lambda _: "a.b.c", "token-wrong"),
    "empty parts": (lambda _: "..", "token-wrong"),
}


def _changed(token: str) -> str:
    head, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    forged = json.dumps(claims | {"scope": "operate"}).encode()
    return f"{head}.{base64.urlsafe_b64encode(forged).rstrip(b'=').decode()}.{signature}"


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_or_foreign_token_is_refused(real, lab, name):
    make, code = FORGED[name]
    assert lab.ask(make(real)) == code
    assert lab.ask(real.token()) == "oidc:scanner submit"


def test_a_secret_among_the_published_keys_signs_nothing(real, lab):
    secret = {"kty": "oct", "kid": "oct-1", "use": "sig", "alg": "HS256", "k": "c2VjcmV0" * 8}
    plain = real.answer
    real.answer = lambda path: {**plain(path), "keys": [secret, published("rsa-1", RSA)]}
    claims = jwt.decode(real.token(), options={"verify_signature": False})
    forged = jwt.encode(claims, base64.urlsafe_b64decode("c2VjcmV0" * 8), "HS256", {"kid": "oct-1"})
    assert lab.ask(real.token()) == "oidc:scanner submit"
    assert lab.ask(forged) == "token-wrong"


def test_a_new_key_is_fetched_when_a_token_names_it_and_the_old_one_is_good_as_long_as_it_is_published(
    real, lab
):
    old = real.token()
    assert lab.ask(old) == "oidc:scanner submit"
    real.keys["rsa-2"] = RSA_NEXT
    lab.now += PAUSE_S
    assert lab.ask(real.token("rsa-2")) == "oidc:scanner submit"
    assert lab.ask(old) == "oidc:scanner submit"
    del real.keys["rsa-1"]
    lab.now += STALE_S
    assert lab.ask(old) == "token-wrong"
    assert lab.ask(real.token("rsa-2")) == "oidc:scanner submit"


def test_bad_tokens_have_the_keys_fetched_once_in_ten_seconds_however_many_come(real, lab):
    bad = [real.token(f"kid-{number}", key=RSA_NEXT) for number in range(MOST_WAITING)]
    assert set(lab.at_once(bad)) == {"token-wrong"}
    assert [lab.ask(token) for token in bad[:5]] == ["token-wrong"] * 5
    assert real.fetched == 1
    lab.now += PAUSE_S
    assert set(lab.at_once(bad)) == {"token-wrong"}
    assert real.fetched == 2


def test_what_no_key_could_make_valid_fetches_none(real, lab):
    for name in ("alg none", "another issuer", "HS256 with the public key", "no JSON"):
        assert lab.ask(FORGED[name][0](real)) == "token-wrong"
    assert real.fetched == 0


def test_an_issuer_that_is_away_is_not_the_callers_fault_and_known_keys_go_on_for_an_hour(real, lab):
    real.away = True
    assert lab.ask(real.token()) == "oidc-away"
    assert lab.ask(TOKEN) == " operate read submit"
    real.away = False
    lab.now += PAUSE_S
    until(lambda: lab.ask(real.token()) == "oidc:scanner submit", 60, "its keys are fetched")
    real.away = True
    lab.now += STALE_S - 1
    assert [lab.ask(real.token()) for _ in range(3)] == ["oidc:scanner submit"] * 3
    lab.now += 1
    assert lab.ask(real.token()) == "oidc-away"


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """Return what an issuer waits for before it answers; it does at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


def test_few_wait_for_an_issuer_that_does_not_answer_and_after_that_nobody(real, lab, held, monkeypatch):
    monkeypatch.setattr(oidc, "_FETCH_S", 0.2)
    plain = real.answer
    real.answer = lambda path: (held.wait(), plain(path))[1]
    tokens = [real.token(f"kid-{number}", key=RSA_NEXT) for number in range(MOST_WAITING + 5)]
    assert lab.at_once(tokens) == ["oidc-away"] * len(tokens)
    lab.now += PAUSE_S
    assert [lab.at_first(token) for token in tokens] == ["oidc-away"] * len(tokens)


def test_of_many_that_wait_at_a_time_those_beyond_the_limit_are_told_to_come_again(real, lab):
    bad = [real.token(f"kid-{number}", key=RSA_NEXT) for number in range(MOST_WAITING + 5)]
    assert lab.at_once(bad) == ["token-wrong"] * MOST_WAITING + ["oidc-away"] * 5


def test_an_answer_that_comes_too_late_is_no_fault_and_nobody_asks_again_before(real, lab, held, monkeypatch):
    faults: list[object] = []
    looks: list[object] = []
    monkeypatch.setattr(threading, "excepthook", faults.append)
    monkeypatch.setattr(oidc, "_FETCH_S", 0.05)
    monkeypatch.setattr(oidc.Issuer, "_published", lambda self: (looks.append(self), held.wait(), {})[2])
    assert lab.ask(real.token()) == "oidc-away"
    lab.now += PAUSE_S
    assert (lab.at_first(real.token()), len(looks)) == ("oidc-away", 1)
    held.set()
    until(lambda: lab.ask(real.token()) == "token-wrong", 60, "keys are fetched again")
    assert (faults, len(looks)) == ([], 2)


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS384"])
def test_a_key_that_states_no_algorithm_is_good_for_all_of_its_kind(real, lab, algorithm):
    plain = real.answer

    def without(path: str) -> dict[str, Any]:
        told = plain(path)
        return told | {"keys": [one | {"alg": None} for one in told.get("keys", [])]}

    real.answer = without
    assert lab.ask(real.token(algorithm=algorithm)) == "oidc:scanner submit"
    assert lab.ask(real.token("ec-1")) == "oidc:scanner submit"


def test_a_key_that_states_its_algorithm_is_good_for_no_other(real, lab):
    assert lab.ask(real.token(algorithm="RS512")) == "token-wrong"


def test_an_issuer_that_calls_itself_otherwise_is_not_believed(real, lab):
    real.called = "https://evil.example"
    assert lab.ask(real.token()) == "oidc-away"


def test_keys_from_an_address_that_others_could_change_are_not_fetched(real, lab, monkeypatch):
    plain = real.answer
    real.answer = lambda path: {**plain(path), "jwks_uri": "http://keys.example/keys"}
    assert lab.ask(real.token()) == "oidc-away"
    assert [is_trusted(url) for url in ("https://a.example/x", "http://127.0.0.1:1", "http://localhost")] == [
        True
    ] * 3
    assert [is_trusted(url) for url in ("http://a.example", "file:///keys", "ftp://127.0.0.1", "//a")] == [
        False
    ] * 4


def test_scopes_may_come_from_groups_in_another_claim(real):
    lab = Lab(real, scopes_claim="realm_access.roles", scopes={"pathology": "submit", "sre": "operate"})
    token = real.token(realm_access={"roles": ["pathology", "operate"]})
    assert lab.ask(token) == "oidc:scanner submit"
    assert lab.ask(real.token(realm_access={"roles": ["sre"]})) == "oidc:scanner operate read"
    assert lab.ask(real.token(realm_access=["sre"])) == "oidc:scanner"
    lab.close()
    lab = Lab(real, scopes_claim="https://lab/roles")
    assert lab.ask(real.token(**{"https://lab/roles": ["read"]})) == "oidc:scanner read"
    lab.close()


def test_a_name_from_the_issuer_is_made_fit_for_the_audit_log(real, lab):
    assert lab.ask(real.token(sub="a\nb\x1b[2J\u202e")) == "oidc:a?b?[2J? submit"
    assert len(lab.ask(real.token(sub="a" * 500))) == len("oidc: submit") + 128


def test_without_pyjwt_an_issuer_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(FatalError) as caught:
        Issuer(IssuerSettings("https://a.example", AUDIENCE))
    assert (caught.value.code, "histgen[oidc]" in caught.value.hint) == ("oidc-missing", True)


def test_authorities_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(FatalError) as caught:
        oidc.Issuer(IssuerSettings("https://a.example", AUDIENCE, ca_file=tmp_path / "none.pem"))
    assert caught.value.code == "authorities-unusable"
