"""Who is calling: tokens with names and scopes, from files and from an OpenID Connect issuer."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.files import each_name_once
from histgen_lib.runtime.web.reread import Reread
from histgen_lib.secret import given_secret

Right = Literal["submit", "read", "operate"]
RIGHTS: frozenset[str] = frozenset(get_args(Right))

MOST_BYTES = 1 << 20
"""Of the file with named tokens."""
_SHORTEST = 32
"""Characters of a token in that file: 128 random bits in hexadecimal."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_TOKEN = re.compile(rf"[A-Za-z0-9._~+/=-]{{{_SHORTEST},}}")
"""What a bearer token may hold (RFC 6750, 2.1): other text could not be sent as it is."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LONGEST_NAME = 128
_WHERE = (
    'Send "Authorization: Bearer TOKEN". The token is in the file that HISTGEN_TOKEN_FILE of the service '
    "names; a local stack keeps it in secrets/token in its home folder."
)


@dataclass(frozen=True)
class Caller:
    """Who sends a request. `name`: for the audit log; "" for the service's own token, which names nobody."""

    name: str
    rights: frozenset[str]

    @property
    def bucket(self) -> str:
        """Its name among the callers whose requests are counted; no address has such a name."""
        return f"caller {self.name}"


def caller(kind: Literal["token", "oidc"], name: str, rights: frozenset[str]) -> Caller:
    """Make a caller whose name says who vouches for it, so that none can be taken for an account."""
    fit = "".join(char if char.isprintable() else "?" for char in name[:_LONGEST_NAME])
    return Caller(f"{kind}:{fit}", implied(rights))


def implied(rights: frozenset[str]) -> frozenset[str]:
    """Add what rights include: who may operate may also read what there is to operate on, but not submit."""
    return (rights | {"read"} if "operate" in rights else rights) & RIGHTS


class Keys(Protocol):
    """Knows some tokens."""

    async def owner(self, token: str) -> Caller | None:
        """Return whose token that is; None for a token of another kind.

        Raises InvalidInputError if it is of this kind and not valid, TransientError if that cannot be known
        now.
        """
        ...


class OwnToken:
    """The service's own token, which opens everything. Raises ValueError for an empty one."""

    def __init__(self, token: str) -> None:
        if not token:
            raise ValueError("the token is empty")
        self._digest = _digest_of(token)

    async def owner(self, token: str) -> Caller | None:
        """See Keys."""
        return Caller("", RIGHTS) if hmac.compare_digest(_digest_of(token), self._digest) else None


class NamedTokens:
    """Tokens with names in a file, which is read again when it changes.

    {"scanner-1": {"sha256": "…", "scopes": ["submit"]}, "sre": {"token": "…", "scopes": ["operate"]}}

    Raises FatalError: "tokens-invalid", and as `given_secret`.
    """

    def __init__(self, path: Path) -> None:
        self._known = Reread(lambda: _read_tokens(path), path)

    async def owner(self, token: str) -> Caller | None:
        """See Keys. Every token is compared, each in constant time."""
        digest, found = _digest_of(token), None
        for known, one in self._known.get():
            found = one if hmac.compare_digest(known, digest) else found
        return found


class Callers:
    """Finds out who sends a request, by its Authorization header (RFC 6750), on loopback as well.

    Any account on the machine can reach its loopback, but only the stack's own account can read the token.
    """

    def __init__(self, keys: Sequence[Keys]) -> None:
        self._keys = keys

    async def find(self, authorizations: Sequence[bytes]) -> Caller:
        """Return who sent these Authorization headers.

        Raises InvalidInputError: "token-missing", "token-wrong" (also for several headers, of which a proxy
        may have checked another one than we would), "token-expired", none of which repeats what was sent; and
        TransientError as `Keys.owner`.
        """
        if len(authorizations) > 1:
            raise InvalidInputError("token-wrong", "The request has several tokens.", hint=_WHERE)
        header = authorizations[0].decode("latin-1") if authorizations else ""
        scheme, _, sent = header.strip().partition(" ")
        token = sent.strip()
        if scheme.lower() != "bearer" or not token:
            raise InvalidInputError("token-missing", "This page requires a token.", hint=_WHERE)
        for keys in self._keys:
            if found := await keys.owner(token):
                return found
        raise InvalidInputError("token-wrong", "This is not a token of this service.", hint=_WHERE)


def _digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode("latin-1")).digest()


def _read_tokens(path: Path) -> list[tuple[bytes, Caller]]:
    text = given_secret(path, most_bytes=MOST_BYTES)
    try:
        found = json.loads(text, object_pairs_hook=each_name_once)
        tokens = [_read_token(name, **values) for name, values in found.items()]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        why = str(error) if isinstance(error, _UnfitError) else "it is not JSON of the form below"
        raise FatalError(
            "tokens-invalid",
            f"The tokens in {path} cannot be used: {why}.",
            hint='Write {"scanner-1": {"sha256": "…", "scopes": ["submit"]}}; docs/gateway.md shows how.',
        ) from None
    if len({digest for digest, _ in tokens}) < len(tokens):
        raise FatalError(
            "tokens-invalid",
            f"The tokens in {path} cannot be used: two names have the same token.",
            hint="Give each its own, so that the audit log tells them apart.",
        )
    return tokens


class _UnfitError(ValueError):
    """Says what is wrong with a token, without repeating it."""


def _read_token(
    name: str, *, scopes: list[str], sha256: str | None = None, token: str | None = None
) -> tuple[bytes, Caller]:
    if not _NAME.fullmatch(name):
        raise _UnfitError("a name has up to 64 letters, digits, dots, hyphens, underscores and @")
    if not isinstance(scopes, list) or not scopes or not all(scope in RIGHTS for scope in scopes):
        raise _UnfitError(f"the scopes of {name} are not a list of submit, read and operate")
    if (sha256 is None) == (token is None):
        raise _UnfitError(f"{name} has not exactly one of sha256 and token")
    if token is not None and not _TOKEN.fullmatch(token):
        raise _UnfitError(f"the token of {name} is not {_SHORTEST} or more letters, digits or -._~+/=")
    if sha256 is not None and not _DIGEST.fullmatch(sha256):
        raise _UnfitError(f"the sha256 of {name} has not 64 hexadecimal digits in lower case")
    digest = bytes.fromhex(sha256) if sha256 is not None else _digest_of(token or "")
    return digest, caller("token", name, frozenset(scopes))
