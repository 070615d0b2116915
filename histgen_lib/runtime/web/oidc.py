"""Tokens of an OpenID Connect issuer: JWTs (RFC 7519, RFC 9068), checked with the keys that it publishes.

Only the issuer's keys decide. They are fetched in the background: at the first token, every five minutes
while tokens come, and when a token names a key that is not known, but never sooner than ten seconds after the
last try, whatever anybody sends. Whoever sends a token with an unknown key waits for them, if the last try
succeeded and few others are waiting: nobody can fill the server with requests that wait for an issuer.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from histgen_lib.errors import FatalError, InvalidInputError, TransientError
from histgen_lib.runtime.pulse import in_background
from histgen_lib.runtime.web.address import IssuerSettings
from histgen_lib.runtime.web.authorities import trusting
from histgen_lib.runtime.web.callers import Caller, caller
from histgen_lib.runtime.web.guard import is_loopback
from histgen_lib.telemetry import get_logger

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS = (*_RSA, "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a public key. Never HS…, whose key anybody could take from what the issuer publishes."""

FRESH_S, STALE_S, PAUSE_S = 300.0, 3600.0, 10.0
"""After which age keys are fetched again, and are no longer used; the shortest time between two tries."""
LEEWAY_S = 30.0
"""How far our clock may be from the issuer's."""
MOST_WAITING = 32
"""Requests that may wait for keys at a time."""
_FETCH_S = 5.0
_DISCOVERY = "/.well-known/openid-configuration"

_log = get_logger()


@dataclass(frozen=True)
class _Key:
    """A key of the issuer, and the algorithms that it may have signed with."""

    key: Any
    algorithms: tuple[str, ...]


class Issuer:
    """Knows the tokens of an issuer. For one thread, the server's; it is never blocked.

    `clock`: monotonic seconds. Raises FatalError: "oidc-missing" where PyJWT is not installed,
    "authorities-unusable".
    """

    def __init__(self, settings: IssuerSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            import jwt
            import jwt.algorithms
        except ImportError as error:
            raise _missing() from error
        if not jwt.algorithms.has_crypto:
            raise _missing()
        self._jwt, self._settings, self._clock = jwt, settings, clock
        self._trust = trusting(settings.ca_file)
        self._keys: dict[str, _Key] = {}
        self._fetched_at = self._tried_at = -math.inf
        self._away, self._waiting = False, 0
        self._fetching: asyncio.Task[None] | None = None
        self._look: Future[dict[str, _Key]] | None = None

    async def owner(self, token: str) -> Caller | None:
        """See Keys. Raises InvalidInputError: "token-wrong", "token-expired"; TransientError("oidc-away")."""
        if token.count(".") != 2:
            return None
        key = await self._key(self._key_id(token))
        try:
            claims: dict[str, Any] = self._jwt.decode(
                token,
                key.key,
                algorithms=list(key.algorithms),
                audience=self._settings.audience,
                issuer=self._settings.url,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except self._jwt.ExpiredSignatureError:
            raise InvalidInputError(
                "token-expired", "The token has expired.", hint="Get a new one from the issuer."
            ) from None
        except Exception:  # of many kinds, for whatever somebody may send
            raise _wrong() from None
        return caller("oidc", str(claims["sub"]), self._rights(claims))

    def _key_id(self, token: str) -> str:
        """Return which key a token names; refuse what no key could make valid."""
        try:
            header = self._jwt.get_unverified_header(token)
            claims = self._jwt.decode(token, options={"verify_signature": False})
        except Exception:  # as above
            raise _wrong() from None
        key_id = header.get("kid")
        ours = claims.get("iss") == self._settings.url and header.get("alg") in ALGORITHMS
        if not ours or not isinstance(key_id, str):
            raise _wrong()
        return key_id

    async def _key(self, key_id: str) -> _Key:
        now = self._clock()
        if now - self._fetched_at >= STALE_S:
            self._keys = {}
        if key_id in self._keys:
            if now - self._fetched_at >= FRESH_S:
                self._fetch()
            return self._keys[key_id]
        if task := self._fetch():
            await self._fetched(task)
        if key_id in self._keys:
            return self._keys[key_id]
        raise _away() if self._away else _wrong()

    async def _fetched(self, task: asyncio.Task[None]) -> None:
        """Wait for the keys. Raises TransientError("oidc-away") if too many do, or the last try failed."""
        if self._away or self._waiting >= MOST_WAITING:
            raise _away()
        self._waiting += 1
        try:
            await asyncio.shield(task)
        finally:
            self._waiting -= 1

    def _fetch(self) -> asyncio.Task[None] | None:
        """Fetch the keys, unless that was tried a moment ago; return what to wait for, if anything."""
        running = self._fetching and not self._fetching.done()
        looking = self._look and not self._look.done()  # also one whose answer came too late
        if not running and not looking and self._clock() - self._tried_at >= PAUSE_S:
            self._tried_at = self._clock()
            self._fetching, running = asyncio.create_task(self._renew()), True
        return self._fetching if running else None

    async def _renew(self) -> None:
        try:
            self._look = in_background(self._published)
            async with asyncio.timeout(2 * _FETCH_S):  # also if the issuer sends a byte now and then
                self._keys = await asyncio.wrap_future(self._look)
            self._fetched_at, self._away = self._clock(), False
        except Exception as error:
            if not self._away:
                _log.warning("The issuer's keys cannot be fetched.", exc_info=error, url=self._settings.url)
            self._away = True

    def _published(self) -> dict[str, _Key]:
        """Ask the issuer where its keys are, and fetch them. Raises OSError and others."""
        issuer = self._settings.url
        found = self._get(issuer.rstrip("/") + _DISCOVERY).fetch_data()
        if found["issuer"] != issuer:
            raise ValueError("the issuer calls itself otherwise")
        told = self._get(str(found["jwks_uri"])).fetch_data()
        bound = [one.get("kid") for one in told["keys"] if isinstance(one, dict) and one.get("alg")]
        keys = self._jwt.PyJWKSet.from_dict(told).keys
        return {
            str(key.key_id): _Key(
                key.key,
                _RSA if key.key_type == "RSA" and key.key_id not in bound else (key.algorithm_name,),
            )
            for key in keys
            if key.key_id and key.public_key_use in ("sig", None) and key.key_type != "oct"  # no secret
        }

    def _get(self, url: str) -> Any:
        """Return PyJWT's client for one address of the issuer; from 2.14 on it follows no redirections."""
        if not is_trusted(url):
            raise ValueError("the address is not https")
        return self._jwt.PyJWKClient(url, cache_jwk_set=False, timeout=_FETCH_S, ssl_context=self._trust)

    def _rights(self, claims: Mapping[str, Any]) -> frozenset[str]:
        value = _claim(claims, self._settings.scopes_claim)
        values = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
        names = {one for one in values if isinstance(one, str)}
        mapping = self._settings.scopes
        return frozenset({mapping[name] for name in names if name in mapping} if mapping else names)


def is_trusted(url: str) -> bool:
    """Return whether nobody on the way can change what an address answers: https, or this machine."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    except ValueError:
        return False


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim by its name, or by the path to it: "realm_access.roles"."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _missing() -> FatalError:
    return FatalError(
        "oidc-missing",
        "An OpenID Connect issuer is configured, but PyJWT with its cryptography is not installed.",
        hint="Install histgen[oidc], or leave HISTGEN_OIDC_ISSUER empty.",
    )


def _wrong() -> InvalidInputError:
    return InvalidInputError(
        "token-wrong",
        "This is not a token of this service.",
        hint="Get one from the issuer for the audience that HISTGEN_OIDC_AUDIENCE names.",
    )


def _away() -> TransientError:
    return TransientError(
        "oidc-away",
        "The token cannot be checked: its issuer does not answer.",
        hint="Send the request again in a few seconds; HISTGEN_OIDC_ISSUER and the log say what is wrong.",
    )
