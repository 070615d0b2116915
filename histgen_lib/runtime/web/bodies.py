"""Bodies of requests: read within limits, as JSON, with known fields of the right types.

Refusals name fields, and never repeat the values in them.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import each_name_once

if TYPE_CHECKING:
    from starlette.requests import Request

Text = Annotated[str, Field(min_length=1, max_length=4096)]

_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_MOST_NAMED = 5


class Body(BaseModel):
    """A request's body: its known fields, each of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


async def read_body(request: Request, most_bytes: int, most_s: float, hint: str) -> bytes:
    """Read a body of at most `most_bytes` that arrives within `most_s` seconds.

    `hint`: what to send instead of one that is too large. Raises InvalidInputError: "request-too-large",
    "request-unreadable".
    """
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most_bytes:
        raise _too_large(most_bytes, hint)
    body = bytearray()
    try:
        async with asyncio.timeout(most_s):
            async for piece in request.stream():
                body += piece
                if len(body) > most_bytes:
                    raise _too_large(most_bytes, hint)
    except TimeoutError:
        raise unreadable_request("its body did not arrive in time") from None
    return bytes(body)


def json_object(body: bytes) -> dict[str, Any]:
    """Parse a body. Raises InvalidInputError("request-unreadable")."""
    try:
        value = json.loads(body, parse_constant=_no_constant, object_pairs_hook=each_name_once)
        json.dumps(value, ensure_ascii=False).encode()  # JSON can name halves of characters; text cannot
    except (ValueError, RecursionError):
        raise unreadable_request("it is not JSON, names a field twice, or holds half a character") from None
    if not isinstance(value, dict):
        raise unreadable_request("it is not a JSON object")
    return value


def unreadable_request(why: str) -> InvalidInputError:
    """Refuse a body that cannot be read."""
    return InvalidInputError(
        "request-unreadable",
        f"The request cannot be read: {why}.",
        hint='Send a JSON object, for example {"uri": "file:///scans/a.svs"} to /slides of the gateway.',
    )


def invalid_request(error: ValidationError, hint: str) -> InvalidInputError:
    """Refuse a body with wrong fields; name them and repeat no value."""
    complaints = [_complaint(entry) for entry in error.errors(include_url=False, include_input=False)]
    more = [f"and {len(complaints) - _MOST_NAMED} more"] if len(complaints) > _MOST_NAMED else []
    return InvalidInputError(
        "request-invalid",
        f"The request is not valid: {'; '.join(complaints[:_MOST_NAMED] + more)}.",
        hint=hint,
    )


def _no_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _complaint(entry: ErrorDetails) -> str:
    name = ".".join(_shown(part) for part in entry["loc"]) or "it"
    if entry["type"] == "extra_forbidden":
        return f"{name} is not a known field"
    if entry["type"] == "missing":
        return f"{name} is missing"
    return f"{name} has the wrong type or length"


def _shown(part: int | str) -> str:
    """Show a field's name only if it looks like one; a sender may have put anything there."""
    return str(part) if isinstance(part, int) or _FIELD.fullmatch(part) else "a field"


def _too_large(most_bytes: int, hint: str) -> InvalidInputError:
    return InvalidInputError(
        "request-too-large", f"The request is longer than {most_bytes} bytes.", hint=hint
    )
