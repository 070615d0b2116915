"""What POST /slides is told, checked; refusals name fields, and never repeat what stood in them."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from histgen_lib.access.places import parse_uri
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import each_name_once
from services.gateway.submission import MOST_CASE_SLIDES, Case, Submission

_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_MOST_NAMED = 5
_Text = Annotated[str, Field(min_length=1, max_length=4096)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class _Case(_Body):
    id: _Text
    slides: Annotated[list[_Text], Field(min_length=1, max_length=MOST_CASE_SLIDES)]


class _Slide(_Body):
    uri: _Text
    slide_id: _Text | None = None
    mpp: Annotated[float, Field(allow_inf_nan=False)] | None = None
    case: _Case | None = None


def read_submission(body: bytes) -> Submission:
    """Read the body of POST /slides.

    Raises InvalidInputError: "request-unreadable" (no JSON object), "request-invalid", "uri-invalid".
    """
    try:
        told = _Slide.model_validate(_json_object(body))
    except ValidationError as error:
        raise _invalid(error) from None
    case = Case(told.case.id, tuple(told.case.slides)) if told.case else None
    return Submission(parse_uri(told.uri), "http", told.slide_id, told.mpp, case)


def unreadable(why: str) -> InvalidInputError:
    """Refuse a body that is no JSON object."""
    return InvalidInputError(
        "request-unreadable",
        f"The request cannot be read: {why}.",
        hint='Send a JSON object, for example {"uri": "file:///scans/a.svs"}.',
    )


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_no_constant, object_pairs_hook=each_name_once)
    except (ValueError, RecursionError):
        raise unreadable("it is not JSON, or names a field twice") from None
    if not isinstance(value, dict):
        raise unreadable("it is not a JSON object")
    return value


def _no_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are no JSON")


def _invalid(error: ValidationError) -> InvalidInputError:
    found = [_complaint(entry) for entry in error.errors(include_url=False, include_input=False)]
    more = [f"and {len(found) - _MOST_NAMED} more"] if len(found) > _MOST_NAMED else []
    return InvalidInputError(
        "request-invalid",
        f"The request cannot be used: {'; '.join(found[:_MOST_NAMED] + more)}.",
        hint='Fields are uri (wanted), slide_id, mpp (µm per pixel) and case {"id", "slides"}.',
    )


def _complaint(entry: ErrorDetails) -> str:
    name = ".".join(_shown(part) for part in entry["loc"]) or "it"
    if entry["type"] == "extra_forbidden":
        return f"{name} is no known field"
    if entry["type"] == "missing":
        return f"{name} is missing"
    return f"{name} is of the wrong kind or length"


def _shown(part: int | str) -> str:
    """Show a field's name if it looks like one; a sender may have put anything there."""
    return str(part) if isinstance(part, int) or _FIELD.fullmatch(part) else "a field"
