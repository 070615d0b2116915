"""The lock of the pages that tell of slides: a bearer token (RFC 6750), wanted on loopback, too.

Whoever has an account on a machine reaches its loopback; the token lies where only the stack's account reads.
"""

from __future__ import annotations

import hmac

from histgen_lib.errors import InvalidInputError

UNAUTHORISED = 401
CHALLENGE = {"www-authenticate": "Bearer"}
"""The header of a refusal, as RFC 9110 wants it."""

_WHERE = (
    'Send "Authorization: Bearer TOKEN"; the token is in the file HISTGEN_TOKEN_FILE of the service, in a '
    "local stack secrets/token in its home folder."
)


class Lock:
    """Opens to one token. Raises ValueError for a token that is none."""

    def __init__(self, token: str) -> None:
        if not token:
            raise ValueError("a lock without a token")
        self._token = token.encode()

    def check(self, authorization: str | None) -> None:
        """Judge the value of an Authorization header, in the same time however much of it is right.

        Raises InvalidInputError: "token-missing", "token-wrong". What was sent is not repeated.
        """
        scheme, _, sent = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not sent.strip():
            raise InvalidInputError(
                "token-missing", "Only who has this service's token is told of slides.", hint=_WHERE
            )
        if not hmac.compare_digest(sent.strip().encode(errors="replace"), self._token):
            raise InvalidInputError("token-wrong", "This is not the token of this service.", hint=_WHERE)
